"""Frames of videos: numbers, order, orientation, colours, damage."""

from __future__ import annotations

import builtins
import random
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import STEP, grey_frames, number_of, write_clip

from fungi_seg.errors import DataError, MissingExtra
from fungi_seg.rasters import Clip, Raster, Window, is_raster, open_raster, planes_of, video

KINDS = [
    ("a.mp4", "mpeg4", "yuv420p", {"bf": 2, "g": 12}),
    ("b.mp4", "libx264", "yuv420p", {"g": 10}),
    ("c.mov", "mjpeg", "yuvj420p", {}),
    ("d.m4v", "mpeg4", "yuv420p", {}),
    ("e.avi", "mpeg4", "yuv420p", {"bf": 2}),
    ("f.mkv", "ffv1", "bgr0", {}),
    ("g.webm", "libvpx-vp9", "yuv420p", {"lag-in-frames": 0}),
]


def frame_of(path: Path, number: int) -> Raster:
    return open_raster(path.with_name(f"{path.name}[t={number}]"))


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "options"), KINDS)
def test_frames_of_every_kind_by_number(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, options: dict[str, Any]
) -> None:
    path = write_clip(tmp_path / name, grey_frames(24), codec, pix_fmt, **options)
    clip = Clip(path)
    assert (len(clip), clip.size, clip.dtype) == (24, (32, 48), "uint8")
    assert [number_of(clip.read(number)) for number in range(24)] == list(range(24))
    shuffled = list(range(24))
    random.Random(3).shuffle(shuffled)
    assert [number_of(clip.read(number)) for number in shuffled] == shuffled


def test_mpeg_programs_by_number(tmp_path: Path) -> None:
    """Their container has no index, and can't hold 10 frames a second."""
    path = tmp_path / "a.mpg"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.options = 32, 48, "yuv420p", {"bf": "2", "g": "6"}
        stream.bit_rate = 8_000_000
        for frame in grey_frames(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    clip = Clip(path)
    assert [number_of(clip.read(number)) for number in (13, 2, 19, 0, 18)] == [13, 2, 19, 0, 18]


def test_frames_in_order_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = Clip(write_clip(tmp_path / "a.mp4", grey_frames(30), "mpeg4", "yuv420p", g=5))
    kept: list[int] = []
    keep = clip._keep
    monkeypatch.setattr(clip, "_keep", lambda place, frame: (kept.append(place), keep(place, frame))[1])
    for number in range(30):
        clip.read(number)
    assert kept == list(range(1, 30))  # the first one was decoded when the video was opened


def test_another_frame_is_decoded_from_the_one_before_that_stands_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "KEPT_BYTES", 0)
    clip = Clip(
        write_clip(tmp_path / "a.mp4", grey_frames(30), "mpeg4", "yuv420p", g=10, bf=0, sc_threshold=1000000000)
    )
    kept: list[int] = []
    keep = clip._keep
    monkeypatch.setattr(clip, "_keep", lambda place, frame: (kept.append(place), keep(place, frame))[1])
    assert [number_of(clip.read(number)) for number in (22, 21, 5)] == [22, 21, 5]
    assert kept == [20, 21, 22, *range(6)]  # 21 was kept


def test_threads_share_a_video(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", grey_frames(30), "mpeg4", "yuv420p", g=5)
    wanted = [*range(30)] * 2
    random.Random(5).shuffle(wanted)
    start = threading.Barrier(4)

    def read(part: list[int]) -> list[int]:
        start.wait()
        return [number_of(frame_of(path, number).read(Window(0, 0, 32, 48))) for number in part]

    parts = [wanted[first::4] for first in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, parts)) == parts


def test_lossless_samples_come_back(tmp_path: Path) -> None:
    noise = [np.random.default_rng(n).integers(0, 256, (20, 30, 3)).astype(np.uint8) for n in range(3)]
    clip = Clip(write_clip(tmp_path / "a.mkv", noise))
    assert all((clip.read(number) == frame).all() for number, frame in enumerate(noise))


@pytest.mark.parametrize(("dtype", "pix_fmt"), [("uint8", "gray"), ("uint16", "gray16le")])
def test_grey_stays_grey_of_its_depth(tmp_path: Path, dtype: str, pix_fmt: str) -> None:
    noise = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (20, 30)).astype(dtype)
    frame = open_raster(write_clip(tmp_path / "a.mkv", [noise], pix_fmt=pix_fmt))
    assert (frame.info.channels, frame.info.dtype, frame.info.kind) == (("1",), dtype, "video")
    assert (frame.read(Window(0, 0, 20, 30))[..., 0] == noise).all()


def test_windows_and_channels_of_a_frame(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    frame = frame_of(write_clip(tmp_path / "a.mkv", [noise, noise]), 1)
    assert (frame.read(Window(3, 5, 7, 11), channels=(2, 0)) == noise[3:10, 5:16, [2, 0]]).all()
    assert frame.valid(Window(0, 0, 20, 30)) is None


@pytest.mark.parametrize(("turned", "expected"), [(90, 1), (-90, -1), (180, 2), (0, 0)])
def test_turned_videos_are_read_as_displayed(tmp_path: Path, turned: float, expected: int) -> None:
    """`numpy.rot90` turns against the clock, as the number of degrees in the file does."""
    noise = np.random.default_rng(2).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    noise = np.kron(noise[:5, :8], np.ones((8, 8, 1), np.uint8))
    upright = Clip(write_clip(tmp_path / "a.mp4", [noise], "libx264", "yuv444p", qp=0)).read(0)
    clip = Clip(write_clip(tmp_path / "b.mp4", [noise], "libx264", "yuv444p", turned, qp=0))
    assert (clip.read(0) == np.rot90(upright, expected)).all()
    assert clip.size == clip.read(0).shape[:2]


def matrix_set(path: Path, a: float, b: float, c: float, d: float) -> None:
    """Write the display matrix of an MP4's track."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    data[place : place + 36] = struct.pack(">9i", *(round(v * 65536) for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    path.write_bytes(data)


def test_mirrored_video(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (16, 32, 3)).astype(np.uint8)
    path = write_clip(tmp_path / "a.mp4", [noise], "libx264", "yuv444p", 0, qp=0)
    upright = Clip(path).read(0)
    matrix_set(path, -1, 0, 0, 1)
    assert (Clip(path).read(0) == upright[:, ::-1]).all()


def test_video_turned_by_a_part_of_a_quarter_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", grey_frames(1), "mpeg4", "yuv420p", 0)
    matrix_set(path, 0.7071, 0.7071, -0.7071, 0.7071)
    with pytest.raises(DataError, match=r"a\.mp4: is shown turned by -?45.*write it upright"):
        Clip(path)


def test_frames_of_varying_length_are_counted_and_their_times_kept(tmp_path: Path) -> None:
    times = [0, 1, 2, 7, 8, 30]
    clip = Clip(write_clip(tmp_path / "a.mkv", grey_frames(6), times=times))
    assert [number_of(clip.read(number)) for number in range(6)] == list(range(6))
    assert clip.times == pytest.approx([time / 10 for time in times])
    assert clip.rate == pytest.approx(5 / 3)


def test_colours_follow_what_the_file_says_of_them(tmp_path: Path) -> None:
    """The same bytes of brightness and colour are another red by ITU-R BT.709 than by BT.601."""
    found = {}
    for name in ("bt709", "smpte170m"):
        path = tmp_path / f"{name}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt, stream.options = 16, 16, "yuv444p", {"qp": "0"}
            stream.codec_context.colorspace = {"bt709": 1, "smpte170m": 6}[name]
            planes = np.stack([np.full((16, 16), v, np.uint8) for v in (81, 90, 240)])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv444p")))
            container.mux(stream.encode())
        found[name] = Clip(path).read(0)[8, 8].astype(int)
    y, cb, cr = 1.164 * (81 - 16), 90 - 128, 240 - 128
    assert (
        np.abs(
            found["smpte170m"] - np.clip([y + 1.596 * cr, y - 0.813 * cr - 0.391 * cb, y + 2.018 * cb], 0, 255)
        ).max()
        <= 2
    )
    assert (
        np.abs(found["bt709"] - np.clip([y + 1.793 * cr, y - 0.533 * cr - 0.213 * cb, y + 2.112 * cb], 0, 255)).max()
        <= 2
    )


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.avi", "a.mkv", "a.webm"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_cut_off_videos_are_refused(tmp_path: Path, name: str, share: float) -> None:
    codec = "libvpx-vp9" if name.endswith("webm") else "mpeg4"
    options: dict[str, Any] = {"lag-in-frames": 0} if name.endswith("webm") else {"g": 5}
    path = write_clip(tmp_path / name, grey_frames(24), codec, "yuv420p", **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=rf"{name}: is cut off, \d+ of its bytes are missing; copy it again"):
        Clip(path)


def test_a_video_with_fewer_frames_than_it_says(tmp_path: Path) -> None:
    """An AVI whose header was written for more frames."""
    path = write_clip(tmp_path / "a.avi", grey_frames(6), "mjpeg", "yuvj420p")
    data = bytearray(path.read_bytes())
    place = data.index(b"strh") + 8 + 32
    assert struct.unpack_from("<I", data, place) == (6,)
    struct.pack_into("<I", data, place, 9)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.avi: is cut off, it holds 6 of 9 frames"):
        Clip(path)


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), [("a.mp4", "mpeg4", "yuv420p"), ("a.mkv", "ffv1", "bgr0")])
def test_a_damaged_frame_is_named_and_others_are_read(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    path = write_clip(tmp_path / name, grey_frames(24), codec, pix_fmt, g=6)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    place, size = packets[15]
    for number in range(place + size // 2, place + size):
        data[number] ^= 0x5A
    path.write_bytes(data)
    clip = Clip(path)
    with pytest.raises(DataError, match=rf"{name}\[t=15\]: can't be decoded.*damaged at this frame or just before it"):
        clip.read(15)
    assert [number_of(clip.read(number)) for number in (18, 23, 2, 11)] == [18, 23, 2, 11]


def test_frames_that_are_not_there(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", grey_frames(3))
    with pytest.raises(DataError, match=r"a\.mkv\[t=3\]: has no t=3; its axes are t 0 to 2"):
        frame_of(path, 3)


@pytest.mark.parametrize(
    ("name", "data"), [("a.mp4", b""), ("a.avi", b"not a video at all"), ("b.mkv", b"\x1a\x45\xdf\xa3")]
)
def test_what_is_no_video(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=rf"{name}: can't be read as a video"):
        Clip(tmp_path / name)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.mp4: no such video file"):
        Clip(tmp_path / "a.mp4")


def test_sound_without_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DataError, match=r"a\.mkv: holds no pictures, only 1 other streams"):
        Clip(path)


def test_a_video_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", grey_frames(3))
    assert number_of(frame_of(path, 2).read(Window(0, 0, 32, 48))) == 2
    write_clip(path, grey_frames(5)[::-1])
    assert number_of(frame_of(path, 0).read(Window(0, 0, 32, 48))) == 4


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mkv", grey_frames(1))
    found = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "av":
            raise ImportError("No module named 'av'", name="av")
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtra, match=r"fungi-seg\[video\]"):
        Clip(path)


def test_grey_of_frames_tells_them_apart() -> None:
    assert [number_of(frame) for frame in grey_frames(30)] == list(range(30))
    assert 29 * STEP < 255


def test_frames_are_planes_along_t(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", grey_frames(3))
    assert [plane.name for plane in planes_of(path)] == ["a.mkv[t=0]", "a.mkv[t=1]", "a.mkv[t=2]"]
    assert planes_of(path, "max") == planes_of(path)
    one = write_clip(tmp_path / "b.mkv", grey_frames(1))
    assert planes_of(one) == (one,)
    assert is_raster(one)


def test_frames_of_an_unknown_code(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mov", grey_frames(3), "mjpeg", "yuvj420p")
    path.write_bytes(path.read_bytes().replace(b"jpeg", b"zzzz"))
    with pytest.raises(DataError, match=r"a\.mov: its frames are coded in a way that isn't read"):
        Clip(path)
