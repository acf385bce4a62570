"""Videos that are written: frames, times, sizes."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from clips import grey_frames, number_of

from fungi_seg.errors import FungiSegError
from fungi_seg.rasters import Clip, video_writer, write_video


def opened_with(path: Path) -> tuple[str, str, float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.codec_context.name, stream.pix_fmt, float(stream.average_rate)


@pytest.mark.parametrize("rate", [10, 25, 30000 / 1001])
def test_frames_and_times_come_back(tmp_path: Path, rate: float) -> None:
    times = [number / rate for number in range(12)]
    write_video(tmp_path / "a.mp4", grey_frames(12), times)
    clip = Clip(tmp_path / "a.mp4")
    assert [number_of(clip.read(number)) for number in range(12)] == list(range(12))
    assert clip.times == pytest.approx(times, abs=1e-4)
    name, pix_fmt, found = opened_with(tmp_path / "a.mp4")
    assert (name, pix_fmt, found) == ("h264", "yuv420p", pytest.approx(rate, rel=1e-3))


def test_frames_of_varying_length(tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 1.5, 1.6]
    write_video(tmp_path / "a.mp4", grey_frames(5), times)
    assert Clip(tmp_path / "a.mp4").times == pytest.approx(times, abs=1e-4)


def test_odd_sides_get_a_pixel(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", grey_frames(3, 33, 47), [0, 1, 2])
    clip = Clip(tmp_path / "a.mp4")
    assert clip.size == (34, 48)
    assert [number_of(clip.read(number)) for number in range(3)] == [0, 1, 2]


def test_a_single_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", grey_frames(1), [0.0])
    assert len(Clip(tmp_path / "a.mp4")) == 1


def test_another_encoder_where_the_first_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    write_video(tmp_path / "a.mp4", grey_frames(3), [0, 1, 2])
    assert opened_with(tmp_path / "a.mp4")[0] == "mpeg4"


def test_no_encoder_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", set())
    with pytest.raises(FungiSegError, match=r"none of the encoders libx264, .*leave videos out.*--video\.output masks"):
        write_video(tmp_path / "a.mp4", grey_frames(1), [0])


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert video_writer.video_encoder() == "libx264"
    with pytest.raises(FungiSegError, match=r"a\.mp4: the video can't be written with libx264"):
        write_video(tmp_path / "missing" / "a.mp4", [np.zeros((16, 16, 3), np.uint8)], [0])
