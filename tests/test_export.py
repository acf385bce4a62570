"""What the page hands out: the files of an export, one archive of them, and the bank."""

from __future__ import annotations

import csv
import gc
import json
import tempfile
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_bank import contents
from tifffile import imread
from trees import photos

from fungi_seg import BankError, FungiSegError, MemoryBank, Segmenter
from fungi_seg.annotating import ExportConfig, ExportedFile, bank_file, export_results, exported_files, zipped
from fungi_seg.annotating.export import CHUNK
from fungi_seg.errors import Cancelled
from fungi_seg.progress import Step, following
from fungi_seg.segmentation import Calibration

EVERYTHING = ExportConfig("tiff", objects=True, coco=True, overlays="contour")


@pytest.fixture(scope="module")
def segmenter(bank: MemoryBank) -> Segmenter:
    return Segmenter(bank)


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    return photos(tmp_path, 2, "süd")


@pytest.fixture
def painted(tmp_path: Path) -> dict[str, Path]:
    labels = np.full((48, 64), 255, np.uint8)
    labels[10:30, 10:30] = 2
    Image.fromarray(labels).save(tmp_path / "0.png")
    return {"süd/0": tmp_path / "0.png"}


def names(out: Path) -> list[str]:
    return [file.name for file in exported_files(out)]


def test_an_export_of_everything(
    segmenter: Segmenter, images: dict[str, Path], painted: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / "photos" / "torn.png").write_bytes(b"torn")
    found = export_results(segmenter, {**images, "torn": tmp_path / "photos" / "torn.png"}, painted, out, EVERYTHING)
    assert (found.segmented, len(found.skipped)) == (2, 1)
    of_images = [f"{kind}/süd/{i}.{suffix}" for kind, suffix in
                 (("geojson", "geojson"), ("labels", "tif"), ("masks", "tif"), ("overlays", "jpg"), ("rois", "zip"))
                 for i in range(2)]  # fmt: skip
    tables = ["classes.txt", "coco.json", "coco_images.json", "images.csv", "objects.csv"]
    assert names(out) == sorted([*of_images, *tables])
    assert [file.bytes for file in exported_files(out)] == [(out / name).stat().st_size for name in names(out)]
    mask = segmenter.predict(images["süd/0"]).mask.copy()
    mask[10:30, 10:30] = 2
    assert imread(out / "masks" / "süd" / "0.tif").tolist() == mask.tolist()
    assert {entry["file_name"] for entry in json.loads((out / "coco_images.json").read_text())["images"]} == {
        "süd/0.png", "süd/1.png"
    }  # fmt: skip
    rows = list(csv.DictReader((out / "images.csv").open(encoding="utf-8")))
    assert int(rows[0]["green_px"]) == (mask == 2).sum()


def test_an_export_takes_the_place_of_the_last_one(
    segmenter: Segmenter, images: dict[str, Path], painted: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_results(segmenter, images, {}, out, EVERYTHING)
    export_results(segmenter, images, {**painted, "gone": tmp_path / "0.png"}, out)
    assert names(out) == ["classes.txt", "images.csv", "masks/süd/0.png", "masks/süd/1.png"]
    assert (np.asarray(Image.open(out / "masks" / "süd" / "0.png"))[10:30, 10:30] == 2).all()
    assert set(contents(out)) - set(names(out)) == {"run.jsonl"}


def test_an_export_that_is_ended_changes_nothing(
    segmenter: Segmenter, images: dict[str, Path], painted: dict[str, Path], tmp_path: Path
) -> None:
    def stop(step: Step) -> None:
        if step.done:
            raise Cancelled("enough")

    out = tmp_path / "out"
    for before in ([], ["classes.txt", "images.csv", "masks/süd/0.png", "masks/süd/1.png"]):
        with following(stop), pytest.raises(Cancelled):
            export_results(segmenter, images, {}, out)
        assert names(out) == before
        export_results(segmenter, images, painted, out)
    assert (np.asarray(Image.open(out / "masks" / "süd" / "0.png"))[10:30, 10:30] == 2).all()


def test_confidence_needs_a_fitted_bank(segmenter: Segmenter, images: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FungiSegError, match="fungi-seg bank fit"):
        export_results(segmenter, images, {}, tmp_path / "out", ExportConfig(confidence=True))
    assert exported_files(tmp_path / "out") == []


def test_confidence_of_a_fitted_bank(
    bank: MemoryBank, images: dict[str, Path], painted: dict[str, Path], tmp_path: Path
) -> None:
    known = Calibration((0.0, 1.0), (0.2, 0.7), -1.0, "isotonic", {"none": 0.1}, 1)
    segmenter, out = Segmenter(bank, calibration=known), tmp_path / "out"
    export_results(segmenter, images, painted, out, ExportConfig("palette", confidence=True))
    assert {"confidence/süd/0.png", "confidence/süd/1.png"} <= set(names(out))
    sure = np.asarray(Image.open(out / "confidence" / "süd" / "0.png"))
    assert (sure[10:30, 10:30] == 255).all()
    assert (sure[31:] < 255).all()
    assert Image.open(out / "masks" / "süd" / "0.png").mode == "P"


@pytest.mark.parametrize(("option", "message"), [("masks", "masks.format is 'x'"), ("overlays", "overlays.style")])
def test_options_that_there_are_not(
    segmenter: Segmenter, images: dict[str, Path], tmp_path: Path, option: str, message: str
) -> None:
    with pytest.raises(FungiSegError, match=message):
        export_results(segmenter, images, {}, tmp_path / "out", ExportConfig(**{option: "x"}))


def test_one_archive_of_all_files(
    segmenter: Segmenter, images: dict[str, Path], painted: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_results(segmenter, images, painted, out, EVERYTHING)
    (out / "masks" / "link.png").symlink_to(tmp_path / "0.png")
    with zipfile.ZipFile(BytesIO(b"".join(zipped(out)))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == names(out)
        assert {name: archive.read(name) for name in names(out)} == {n: (out / n).read_bytes() for n in names(out)}
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


def test_an_archive_is_never_held_as_a_whole(tmp_path: Path) -> None:
    parts, size = 24, 3 * CHUNK // 2
    (tmp_path / "images.csv").write_text("image\n")
    for number in range(parts):
        (tmp_path / f"{number}.png").write_bytes(b"x" * size)
    tracemalloc.start()
    total = sum(map(len, zipped(tmp_path)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > parts * size
    assert most < 6 * CHUNK


def test_an_archive_can_be_left_half_read(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("image\n")
    (tmp_path / "a.png").write_bytes(b"x" * 3 * CHUNK)
    reading = zipped(tmp_path)
    assert len(next(iter(reading))) >= CHUNK
    del reading
    gc.collect()


@pytest.mark.parametrize("change", ["other", "further", "gone"])
def test_an_archive_never_mixes_two_exports(tmp_path: Path, change: str) -> None:
    (tmp_path / "images.csv").write_text("image\n")
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"x" * 2 * CHUNK)
    reading, found = zipped(tmp_path), []
    found.append(next(reading))
    if change == "gone":
        (tmp_path / "a.png").unlink()
    else:
        (tmp_path / ("a.png" if change == "other" else "c.png")).write_bytes(b"y")
    with pytest.raises(FungiSegError, match="was exported anew while its files were read; ask for them again"):
        found.extend(reading)
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(BytesIO(b"".join(found)))


def test_nothing_is_listed_before_an_export(tmp_path: Path) -> None:
    assert exported_files(tmp_path / "missing") == []
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").write_bytes(b"half")
    assert exported_files(tmp_path) == []
    (tmp_path / "images.csv").write_text("image\n")
    assert exported_files(tmp_path) == [ExportedFile("images.csv", 6), ExportedFile("masks/a.png", 4)]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("taken", ["all", "some", "none"])
def test_the_bank_as_one_file(bank: MemoryBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str) -> None:
    between = tmp_path / "between"
    between.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(between))
    size, parts = bank_file(bank)
    assert len(list(between.rglob("*.tar"))) == 1
    if taken == "all":
        data = b"".join(parts)
        assert len(data) == size
        (tmp_path / "bank.tar").write_bytes(data)
        copy = MemoryBank.import_file(tmp_path / "bank.tar", tmp_path / "copy")
        assert np.array_equal(copy.rows.keys, bank.rows.keys)
    elif taken == "some":
        assert next(iter(parts))
    del parts
    gc.collect()
    assert not list(between.iterdir())


def test_a_bank_that_cannot_be_written(bank: MemoryBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: MemoryBank, file: Path) -> Path:
        file.write_bytes(b"half")
        raise BankError("damaged")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(MemoryBank, "export", fail)
    with pytest.raises(BankError, match="damaged"):
        bank_file(bank)
    assert not list(tmp_path.iterdir())
