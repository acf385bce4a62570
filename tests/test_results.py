"""A folder of results: resumed, replaced whole, never half; its tables and records."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import photos, scene

from fungi_seg import Backbone, DataError, DecoderConfig, FungiSegError, InputConfig, MemoryBank, RunConfig, Segmenter
from fungi_seg.evaluation import CocoConfig
from fungi_seg.results import (
    ResultsConfig,
    ResultsFolder,
    folder as results_folder,
    run as results_run,
    segment_to_folder,
    writing as results_writing,
)
from fungi_seg.results.folder import COMPLETE, DRAFT, RECORD
from fungi_seg.results.records import BINS, ImageRecord, record_of
from fungi_seg.results.tables import write_tables
from fungi_seg.search import neighbour_weights
from fungi_seg.segmentation import ObjectConfig

Contents = dict[str, bytes]


@pytest.fixture(scope="module")
def segmenter(bank: MemoryBank) -> Segmenter:
    return Segmenter(bank)


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    return photos(tmp_path, 3, "sub")


def contents(folder: Path, leave_out: str = RECORD) -> Contents:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.name != leave_out and f.suffix != ".csv"}


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each image is segmented."""
    found, real = Counter[str](), results_writing.segment_files

    def counting(segmenter: Segmenter, paths: Any, *rest: Any) -> Any:
        found.update(path.name for path in paths)
        return real(segmenter, paths, *rest)

    monkeypatch.setattr(results_writing, "segment_files", counting)
    return found


def test_a_second_run_segments_what_is_new(
    segmenter: Segmenter, images: dict[str, Path], tmp_path: Path, computed: Counter[str]
) -> None:
    out, two = tmp_path / "out", dict(list(images.items())[:2])
    assert vars(segment_to_folder(segmenter, two, out))["segmented"] == 2
    found = segment_to_folder(segmenter, images, out)
    assert (found.segmented, found.total) == (1, 3)
    (out / "masks" / "sub" / "0.png").unlink()
    (out / "overlays" / "sub" / "1.jpg").write_bytes(b"")
    segment_to_folder(segmenter, images, out)
    assert computed == {"0.png": 2, "1.png": 2, "2.png": 1}
    whole = tmp_path / "whole"
    segment_to_folder(segmenter, images, whole)
    assert contents(out) == contents(whole)


def test_images_that_are_not_named_again_are_told(
    segmenter: Segmenter, images: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segment_to_folder(segmenter, images, tmp_path / "out")
    assert not caplog.records
    found = segment_to_folder(segmenter, {"sub/0": images["sub/0"]}, tmp_path / "out")
    assert found.total == 3
    assert "also holds 2 images that weren't named now, and counts them:\n  sub/1\n  sub/2" in caplog.text


def test_a_stopped_run_goes_on(
    segmenter: Segmenter, images: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, done = tmp_path / "out", results_writing.record_of, []
    config = ResultsConfig(objects=ObjectConfig(), coco=CocoConfig(str(tmp_path / "coco.json")))

    def stop(*args: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(args)
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(results_writing, "record_of", stop)
        with pytest.raises(KeyboardInterrupt):
            segment_to_folder(segmenter, images, out, config)
    assert not (out / "objects.csv").exists()
    with (out / RECORD).open("ab") as record:
        record.write(b'{"name": "sub/1", "fi')  # a line that is cut off
    found = segment_to_folder(segmenter, images, out, config)
    assert (found.segmented, found.total) == (2, 3)
    entries = (tmp_path / "coco.json").read_bytes()
    again = segment_to_folder(segmenter, images, tmp_path / "whole", config)
    assert contents(out) == contents(tmp_path / "whole")
    assert (tmp_path / "coco.json").read_bytes() == entries
    assert (again.objects, again.regions) == (found.objects, found.regions)
    assert (out / "objects.csv").read_bytes() == (tmp_path / "whole" / "objects.csv").read_bytes()


def test_other_settings_and_images_are_refused(bank: MemoryBank, images: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment_to_folder(Segmenter(bank), images, out)
    before = contents(out, "")
    with pytest.raises(FungiSegError, match=r"of other settings:\n.*decoder\.k: 30 there, 5 now\n.*--overwrite"):
        segment_to_folder(Segmenter(bank, decoder=DecoderConfig(k=5)), images, out)
    other = {**images, "sub/1": images["sub/0"]}
    with pytest.raises(FungiSegError, match=r"(?s)other images of the same name:.*'sub/1': of .*1\.png, which isn't"):
        segment_to_folder(Segmenter(bank), other, out)
    assert contents(out, "") == before


@pytest.mark.parametrize("name", ["masks", "classes.txt", "index.html"])
def test_what_is_not_ours_stays(segmenter: Segmenter, images: dict[str, Path], tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FungiSegError, match=rf"holds {name}, but no run\.jsonl"):
            segment_to_folder(segmenter, images, tmp_path / "out", overwrite=overwrite)
    assert contents(tmp_path / "out") == {name: b"mine"}


def test_overwriting_replaces_all_at_the_end(
    bank: MemoryBank, images: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computed: Counter[str]
) -> None:
    out, real = tmp_path / "out", results_writing.record_of
    segment_to_folder(Segmenter(bank), images, out, ResultsConfig(scores=True))
    (out / "notes.txt").write_text("mine")
    before, two = contents(out, ""), dict(list(images.items())[:2])
    segmenter, config = Segmenter(bank, decoder=DecoderConfig(k=3)), ResultsConfig()

    def stop(found: Any, name: str, *rest: Any) -> Any:
        if name == "sub/1":
            raise KeyboardInterrupt
        return real(found, name, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(results_writing, "record_of", stop)
        with pytest.raises(KeyboardInterrupt):
            segment_to_folder(segmenter, two, out, config, overwrite=True)
    assert {name: data for name, data in contents(out, "").items() if not name.startswith(DRAFT)} == before
    computed.clear()
    found = segment_to_folder(segmenter, two, out, config, overwrite=True)
    assert computed == {"1.png": 1}  # the draft of the same settings went on
    assert (found.total, (out / "notes.txt").read_text()) == (2, "mine")
    (out / "notes.txt").unlink()
    segment_to_folder(segmenter, two, tmp_path / "whole", config)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("stopped_after", range(0, 12, 2))
def test_taking_the_place_of_older_results_ends_later_if_stopped(
    bank: MemoryBank, images: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_after: int
) -> None:
    out, moves = tmp_path / "out", []
    segment_to_folder(Segmenter(bank), images, out, ResultsConfig(scores=True))
    segmenter = Segmenter(bank, decoder=DecoderConfig(k=3))

    def after(real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            if (out / DRAFT / COMPLETE).is_file():
                moves.append(args)
                if len(moves) == stopped_after + 1:
                    raise KeyboardInterrupt
            real(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", after(os.replace))
        patched.setattr(results_folder, "_remove", after(results_folder._remove))
        with pytest.raises(KeyboardInterrupt):
            segment_to_folder(segmenter, images, out, overwrite=True)
    found = segment_to_folder(segmenter, images, out)
    assert (found.segmented, found.total) == (0, 3)
    segment_to_folder(segmenter, images, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_one_process_at_a_time(segmenter: Segmenter, images: dict[str, Path], tmp_path: Path) -> None:
    with ResultsFolder(tmp_path / "out", {}), pytest.raises(FungiSegError, match="another process is writing results"):
        segment_to_folder(segmenter, images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_stays_of_a_run_without_a_result(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    for skip in (False, True):
        with pytest.raises(DataError, match=r"bad\.png"):
            segment_to_folder(
                segmenter, {"bad": tmp_path / "bad.png"}, tmp_path / "a" / "out", run=RunConfig(skip_bad=skip)
            )
    assert not (tmp_path / "a").exists()


def test_a_full_disk_while_the_page_is_written(
    segmenter: Segmenter, images: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_text

    def full(self: Path, *args: Any, **kwargs: Any) -> int:
        if self.name.startswith(".index"):
            real(self, "half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(FungiSegError, match=r"index\.html: can't be written.*free some space"):
            segment_to_folder(segmenter, images, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if "index" in path.name]
    assert segment_to_folder(segmenter, images, tmp_path / "out").segmented == 0
    assert (tmp_path / "out" / "index.html").is_file()


def test_files_that_vanish_before_the_page_are_told(
    segmenter: Segmenter,
    images: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = results_run.write_tables

    def losing(*args: Any) -> int:
        (tmp_path / "out" / "overlays" / "sub" / "1.jpg").unlink()
        shutil.rmtree(tmp_path / "photos")
        return real(*args)

    monkeypatch.setattr(results_run, "write_tables", losing)
    segment_to_folder(segmenter, images, tmp_path / "out")
    said = "1 files are no longer there as they were written:"
    assert said in caplog.text
    assert "overlays/sub/1.jpg" in caplog.text
    assert said in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize("text", ["", "[1]\n", '{"format": 99, "settings": {}}\n', "no JSON\n"])
def test_records_of_something_else(segmenter: Segmenter, images: dict[str, Path], tmp_path: Path, text: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RECORD).write_text(text)
    with pytest.raises(FungiSegError, match=r"run\.jsonl: is.*name another folder, or move it"):
        segment_to_folder(segmenter, images, tmp_path / "out")


def test_records_say_what_was_found(segmenter: Segmenter, images: dict[str, Path], tmp_path: Path) -> None:
    segment_to_folder(segmenter, images, tmp_path / "out", ResultsConfig(objects=ObjectConfig()))
    lines = (tmp_path / "out" / RECORD).read_text().splitlines()
    assert json.loads(lines[0])["settings"]["decoder"]["k"] == 30
    found, image = segmenter.predict(images["sub/0"]), np.asarray(Image.open(images["sub/0"]))
    record = ImageRecord.from_json(lines[1])
    assert (record.name, record.width, record.height) == ("sub/0", 64, 48)
    counts = Counter(found.mask.ravel().tolist())
    assert dict(record.pixels) == counts
    best = found.scores.max(0)
    assert record.sure == pytest.approx(best.mean(), abs=1e-4)
    assert record.histogram == pytest.approx(np.histogram(best, BINS, (0, 1))[0], abs=3)
    rows = list(csv.DictReader((tmp_path / "out" / "images.csv").open()))
    assert [row["image"] for row in rows] == ["sub/0", "sub/1", "sub/2"]
    assert (int(rows[0]["red_px"]), rows[0]["mean_confidence"]) == (counts[1], "")
    features = segmenter.features(segmenter.fit(image).image[None])[0].numpy()
    similarities, neighbours = segmenter.index.search(features, 30)
    weights = neighbour_weights(similarities, segmenter.decoder.temperature)
    shares: Counter[str] = Counter()
    for weight, row in zip(weights.ravel(), neighbours.ravel(), strict=True):
        shares[segmenter.bank.info.sources[segmenter.bank.rows.source[row]]] += weight / len(features)
    assert dict(record.voters) == pytest.approx(dict(shares.most_common(5)), abs=1e-5)


def test_records_of_unknown_pixels(segmenter: Segmenter, images: dict[str, Path]) -> None:
    found = segmenter.predict(images["sub/0"])
    found.mask[:10] = 255
    record = record_of(found, "a", Path("a"), "", 0.0)
    assert (record.unknown, sum(pixels for _, pixels in record.pixels)) == (640, 48 * 64 - 640)


def test_configurations_that_are_refused() -> None:
    with pytest.raises(FungiSegError, match="pixel_size is 0; it must be"):
        ResultsConfig(objects=ObjectConfig(), pixel_size=0)
    with pytest.raises(FungiSegError, match="ask for objects"):
        ResultsConfig(pixel_size=1)
    with pytest.raises(FungiSegError, match="confidence is 'gif'"):
        ResultsConfig(confidence=("gif",))
    with pytest.raises(FungiSegError, match="unknown is 2"):
        ResultsConfig(unknown=2)


def test_memory_does_not_grow_with_what_is_found(tmp_path: Path) -> None:
    """Of an image that is done its name, a sum and a place stay in memory; tables are written record by record."""
    objects = tuple((n, 1, 100, *(0.5,) * 6, 11.3, 0.4, 0.9) for n in range(1, 201))
    record = ImageRecord("", "x.png", "", 10, 10, ((1, 100),), 0, 0.5, True, (0,) * BINS, (), 0.1, objects=objects)
    with ResultsFolder(tmp_path / "out", {}) as results:
        tracemalloc.start()
        for number in range(200):
            results.add(replace(record, name=f"{number:04}"))
        assert write_tables(tmp_path, results.records(), ("a", "b"), True) == 40_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (tmp_path / "out" / RECORD).stat().st_size > 2e6
    assert peak < 1e6  # all of it at once would take ten times as much


def test_images_of_another_scale_than_the_banks_are_told(
    bank: MemoryBank, tiny_backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
    usual = segmenter.bank_scale()
    images = {}
    for name, times in (("same", 1), ("large", 6)):
        images[name] = tmp_path / f"{name}.png"
        picture = Image.fromarray(scene(1)[0])
        picture.resize((64 * times, 48 * times)).save(images[name])
    other = segmenter.entering(InputConfig(48))
    segment_to_folder(other, images, tmp_path / "out")
    (told,) = (record.getMessage() for record in caplog.records if "of their size" in record.getMessage())
    assert f"1 images, such as {images['large']}, enter at 0.167 of their size" in told
    assert f"give --input.scale {usual:.3g}" in told
