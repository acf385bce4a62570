"""The demo, from its function and from the command line, and the images that come with the package."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HALF, TINY
from PIL import Image
from torch import Tensor
from trees import folder_tree

from fungi_seg import (
    BackboneConfig,
    DataConfig,
    DataError,
    Dataset,
    FungiSegError,
    InputConfig,
    MemoryBank,
    PatchFeatures,
    Segmenter,
    evaluate,
    open_dataset,
)
from fungi_seg.cli import main
from fungi_seg.commands import demo
from fungi_seg.commands.demo import FEATURE_KINDS, NUCLEI, DemoResult, run_demo, seconds_an_image

BACKBONE = BackboneConfig("tiny", "random", TINY, HALF, HALF, "cpu", "float32")
INPUT = InputConfig(128)
FILES = {"index.html", "contact_sheet.png", "report.json", "bank_plain", "bank_fungi"}
OPTIONS = [
    *("--backbone.name=tiny", "--backbone.weights=random", f"--backbone.model_args={json.dumps(TINY)}"),
    *(f"--backbone.mean={list(HALF)}", f"--backbone.std={list(HALF)}", "--backbone.dtype=float32"),
    *("--backbone.device=cpu", "--input.size=64"),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "new" / "folder"


@pytest.fixture(scope="module")
def result(out: Path) -> DemoResult:
    """Of four annotated images, at 128 pixels."""
    return run_demo(out, 4, BACKBONE, INPUT, seed=3)


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small images to measure on and four to build from, in place of those that are shipped."""
    monkeypatch.setattr(demo, "NUCLEI", folder_tree(tmp_path / "few", classes=2))
    return tmp_path / "few"


def shipped(split: str) -> Dataset:
    return open_dataset(DataConfig(root=str(NUCLEI), split=split))


# The demo


def test_files(result: DemoResult, out: Path) -> None:
    assert {path.name for path in out.iterdir()} == FILES
    assert result.files == (out / "index.html", out / "contact_sheet.png", out / "report.json")
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.mode == "RGB"
        assert min(sheet.size) > 500


def test_banks_hold_the_images_asked_for(result: DemoResult, out: Path) -> None:
    """Four of the annotated images, and none of those measured on."""
    for kind in FEATURE_KINDS:
        info = MemoryBank.open(out / f"bank_{kind}").info
        assert info.sources == tuple(item.id for item in shipped("train").evenly(4).items)
        assert not {item.id for item in shipped("val").items} & set(info.sources)
        assert (info.features.kind, info.input, info.build["seed"]) == (kind, INPUT, 3)
        assert not any("the id of an image in the bank" in note for note in result.reports[kind].notes)


def test_figures_are_those_of_an_evaluation(result: DemoResult, out: Path, tmp_path: Path) -> None:
    """Made again from the banks that it left, and the same in the file."""
    kept = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert tuple(kept) == tuple(result.reports) == FEATURE_KINDS
    for kind in FEATURE_KINDS:
        again = evaluate(Segmenter(out / f"bank_{kind}", device="cpu", dtype="float32"), shipped("val"))
        assert result.reports[kind].confusion == again.confusion == kept[kind]["confusion"]
        assert result.reports[kind].miou == again.miou == kept[kind]["miou"]
        assert kept[kind]["images"] == 12
    assert kept["plain"]["confusion"] != kept["fungi"]["confusion"]


def test_rows(result: DemoResult) -> None:
    plain, fungi = (result.reports[kind] for kind in FEATURE_KINDS)
    rows = {name: figures for name, *figures in result.rows()}
    assert list(rows) == ["IoU % background", "IoU % nucleus", "mIoU %", "seconds an image"]
    assert rows["IoU % nucleus"] == [f"{100 * r.classes[1]['iou']:.2f}" for r in (plain, fungi)]
    assert rows["mIoU %"] == [f"{100 * r.miou:.2f}" for r in (plain, fungi)]
    mean = (float(rows["IoU % nucleus"][1]) + float(rows["IoU % background"][1])) / 2
    assert float(rows["mIoU %"][1]) == pytest.approx(mean, abs=0.02)
    assert float(rows["seconds an image"][0]) == pytest.approx(seconds_an_image(plain), abs=0.006)
    assert 0 < seconds_an_image(plain) * 12 < plain.seconds["total"]


def test_page_shows_every_image(result: DemoResult, out: Path) -> None:
    page = (out / "index.html").read_text(encoding="utf-8")
    assert all(item.id in page for item in shipped("val").items)
    assert page.count("<h2>") == 12
    views = 6  # image, truth, and each prediction with its errors
    assert page.count('<img src="data:image/jpeg;base64,') == 12 * (views + 30)
    assert "http" not in page
    assert "12 microscopy images, segmented from 4 annotated ones by the frozen backbone &#39;tiny&#39;" in page
    assert "BBBC038v1, CC0" in page
    for row in result.rows():
        assert "".join(f"<td>{cell}</td>" for cell in row) in page
    assert all(source in page for source in MemoryBank.open(out / "bank_fungi").info.sources)


def test_the_worst_image_comes_first(result: DemoResult, out: Path) -> None:
    """Of the FUNGI features, whose figures stand beside those of plain ones."""
    page = (out / "index.html").read_text(encoding="utf-8")
    pairs = re.findall(r"IoU nucleus: plain (\d+) %, FUNGI (\d+) %", page)
    found = [int(second) for _, second in pairs]
    assert len(found) == 12
    assert found == sorted(found)
    assert found[0] < found[-1]
    assert page.count("<details>") == 12
    assert page.count("<summary>24 more</summary>") == 12


def test_better_than_nothing(result: DemoResult) -> None:
    """Even a tiny network with random weights does better than calling everything background."""
    for report in result.reports.values():
        background, nucleus = np.sum(report.confusion, axis=1)
        assert report.miou > background / (background + nucleus) / 2 + 0.05


def test_again_into_the_same_folder(few: Path, tmp_path: Path) -> None:
    """The same figures again; with other settings the page and the banks are replaced."""
    out = tmp_path / "demo"
    first, again = (run_demo(out, 2, BACKBONE, InputConfig(48), seed=3) for _ in range(2))
    for kind in FEATURE_KINDS:
        assert again.reports[kind].confusion == first.reports[kind].confusion
    page = (out / "index.html").read_bytes()
    run_demo(out, 1, BACKBONE, InputConfig(50, fit="pad"), seed=3)
    assert {path.name for path in out.iterdir()} == FILES
    assert MemoryBank.open(out / "bank_plain").info.sources == ("train_2",)
    assert (out / "index.html").read_bytes() != page


@pytest.mark.usefixtures("few")
def test_features_of_an_image_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two annotated images and two others, plain and FUNGI: the panels ask for none again."""
    computed, compute = [], PatchFeatures.__call__

    def count(self: PatchFeatures, images: Tensor, *names: Any) -> Tensor:
        computed.extend((self.config.kind, image.numpy().tobytes()) for image in images)
        return compute(self, images, *names)

    monkeypatch.setattr(PatchFeatures, "__call__", count)
    run_demo(tmp_path / "demo", 2, BACKBONE, InputConfig(48))
    assert len(computed) == len(set(computed)) == 8


def test_an_image_without_the_last_class(few: Path, tmp_path: Path) -> None:
    """It has no middle of an object whose patch could be explained."""
    mask = few / "val" / "masks" / "val_0.png"
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(mask)
    run_demo(tmp_path / "demo", 2, BACKBONE, InputConfig(48))
    assert (tmp_path / "demo" / "index.html").read_text(encoding="utf-8").count("<h2>") == 2


# The command


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--shots", "3", "--seed=1", *OPTIONS]) == 0
    told = capsys.readouterr()
    assert {path.name for path in out.iterdir()} == FILES
    assert "3 annotated images" in told.out
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert f"{100 * report['fungi']['miou']:.2f}" in told.out
    assert "Look at:" in told.out
    assert "index.html" in told.out
    assert "memory bank: 3/3 images" in told.err
    assert "evaluation: 12/12 images" in told.err
    info = MemoryBank.open(out / "bank_fungi").info
    assert (info.build["seed"], info.input.size, info.backbone.name) == (1, 64, "tiny")


def test_command_with_a_recipe(few: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "out": str(tmp_path / "demo"),
        "shots": 1,
        "backbone": {"name": "tiny", "weights": "random", "model_args": TINY, "device": "cpu", "dtype": "float32"},
        "input": {"size": 48, "keep_aspect": False},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps({"demo": settings}))
    assert main(["demo", "--config", str(tmp_path / "recipe.yaml")]) == 0
    assert MemoryBank.open(tmp_path / "demo" / "bank_plain").info.input == InputConfig(48, False)


@pytest.mark.parametrize("shots", ["0", "25", "-1"])
def test_more_images_than_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str], shots: str) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), f"--shots={shots}", *OPTIONS]) == 1
    assert f"error: {shots} images asked for; it must be between 1 and 24" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
    with pytest.raises(DataError, match=rf"{shots} images asked for; it must be between 1 and 24"):
        run_demo(tmp_path / "demo", int(shots), BACKBONE, INPUT)


def test_a_file_where_the_results_should_go(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FungiSegError, match=r"bank_plain: can't write there .*name another folder"):
        run_demo(tmp_path / "file", 1, BACKBONE, INPUT)
    assert (tmp_path / "file").read_text() == "mine"


def test_something_else_where_a_bank_should_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bank_plain").mkdir()
    (tmp_path / "bank_plain" / "mine.txt").write_text("mine")
    assert main(["demo", "--out", str(tmp_path), "--shots=1", *OPTIONS]) == 1
    assert "bank_plain: there is something else already" in capsys.readouterr().err
    assert (tmp_path / "bank_plain" / "mine.txt").read_text() == "mine"


def test_descriptor_has_no_fungi_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--out", str(tmp_path / "demo"), "--shots=1", "--input.size=64", "--backbone.name=descriptor"]
    assert main(["demo", *options]) == 1
    assert "features.kind is 'fungi', but 'descriptor' has no layer" in capsys.readouterr().err


# The images that come with the package


def test_shipped_images() -> None:
    train, val = shipped("train"), shipped("val")
    assert (len(train), len(val)) == (24, 12)
    assert train.classes == val.classes == ("background", "nucleus")
    assert not train.palette[0].any()
    assert train.palette[1].any()
    seen = set()
    for sample in (*train, *val):
        assert sample.mask.shape == sample.image.shape[:2]
        assert set(np.unique(sample.mask)) == {0, 1}
        assert min(sample.mask.shape) >= 128
        seen.add(sample.image.tobytes())
    assert len(seen) == 36  # no image twice, nor in both parts


def test_shipped_masks_hold_nothing_but_class_indices() -> None:
    masks = sorted(NUCLEI.glob("*/masks/*.png"))
    assert len(masks) == 36
    for path in masks:
        with Image.open(path) as mask:
            assert mask.mode in ("P", "L")
            assert set(np.unique(np.asarray(mask))) == {0, 1}


def test_shipped_files_are_small_and_explained() -> None:
    files = [path for path in NUCLEI.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    assert {path.suffix for path in files} == {".png", ".md", ".txt"}
    text = (NUCLEI / "README.md").read_text(encoding="utf-8")
    assert "BBBC038v1" in text
    assert "https://bbbc.broadinstitute.org/BBBC038" in text
    assert "Licence: [CC0 1.0]" in text
