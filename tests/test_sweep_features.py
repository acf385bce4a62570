# ruff: noqa: F811
"""Sweeps over kinds of features, weights of the gradient and backbones; and those that were interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_sweep import PAD, call, refuse, root, splits  # noqa: F401  # noqa: F401

from fungi_seg import (
    Backbone,
    BankConfig,
    BankRecipe,
    DecoderConfig,
    FeatureConfig,
    FungiSegError,
    IndexConfig,
    MemoryBank,
    PatchFeatures,
    Segmenter,
    build_bank,
    evaluate,
    load_backbone,
)
from fungi_seg.sweep import SweepConfig, sweep, sweeping
from fungi_seg.sweep.settings import Setting

ONE = SweepConfig((3,), (0.1,), (60,), ("balanced",), ("flat",), (0,))
WEIGHTS = (0.0, 0.3, 0.5, 1.0)


@pytest.fixture(scope="module")
def descriptor() -> Backbone:
    return load_backbone("descriptor", device="cpu", dtype="float32")


def by_hand(root: Path, folder: Path, backbone: Backbone, result: dict[str, Any]) -> float:
    train, val = splits(root)
    out = folder / f"{result['backbone']}_{result['kind']}"
    if not out.exists():
        recipe = BankRecipe(FeatureConfig(kind=result["kind"]), PAD, BankConfig(size=result["size"]), 0)
        build_bank(train, backbone, out, recipe)
    bank = MemoryBank.open(out)
    decoder = DecoderConfig(result["k"], result["temperature"], result["gradient_weight"])
    features = bank.patch_features(backbone=backbone)
    return evaluate(Segmenter(bank, features, decoder, IndexConfig("flat")), val).miou


def test_cells_are_what_build_and_evaluate_give(
    root: Path,
    tiny_backbone: Backbone,
    descriptor: Backbone,
    tmp_path: Path,
) -> None:
    """A backbone without gradients is measured with plain features alone; plain ones count once for all weights."""
    config = replace(ONE, kind=("plain", "fungi"), gradient_weight=WEIGHTS)
    backbones = {"tiny": tiny_backbone, "by hand": descriptor}
    report = sweep(*splits(root), backbones, tmp_path / "sweep", config, None, PAD)
    cells = [(r["backbone"], r["kind"], r["gradient_weight"]) for r in report.results]
    expected = {("tiny", "plain", None), ("by hand", "plain", None), *(("tiny", "fungi", w) for w in WEIGHTS)}
    assert set(cells) == expected
    assert len(cells) == len(expected)
    for result in report.results:
        value = by_hand(root, tmp_path, backbones[result["backbone"]], result)
        assert result["miou"] == pytest.approx(value, abs=1e-6)
    assert report.reference | {"kind": "fungi", "gradient_weight": 0.5, "backbone": "tiny"} == report.reference
    assert report.swept == ("kind", "gradient_weight", "backbone")
    assert "by hand has no gradients, so that it is measured with plain features alone" in report.notes
    header, rows = report.table()
    assert header[:3] == ["features", "gradient weight", "backbone"]
    assert ["plain", "–", "by hand"] in [row[:3] for row in rows]
    assert "60" in report.explanation()
    report.chart(tmp_path / "sweep.png")
    with Image.open(tmp_path / "sweep.png") as chart:
        assert chart.width > 1500  # three panels


@pytest.mark.parametrize("best", ["plain", "fungi"])
def test_chart_where_combinations_are_missing(
    root: Path,
    tiny_backbone: Backbone,
    descriptor: Backbone,
    tmp_path: Path,
    best: str,
) -> None:
    config = replace(ONE, kind=("plain", "fungi"), gradient_weight=(0.3, 0.7))
    report = sweep(*splits(root), {"a": descriptor, "b": tiny_backbone}, tmp_path / "sweep", config, None, PAD)
    results = [r | {"miou": 0.99 if r["kind"] == best else 0.1, "interval": [0.0, 1.0]} for r in report.results]
    replace(report, results=results).chart(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 1000
    assert (report.reference["backbone"], report.reference["kind"]) == ("a", "plain")  # it has no gradients
    assert f"features {best}" in replace(report, results=results).summary()


def test_settings() -> None:
    config = replace(ONE, kind=("plain", "fungi"), gradient_weight=(0.3, 0.5), backbone=("a", "b"))
    found = [(s.backbone, s.kind, s.gradient_weight) for s in config.settings()]
    assert found == [
        (name, kind, weight) for kind, weight in (("plain", None), ("fungi", 0.3), ("fungi", 0.5)) for name in "ab"
    ]
    assert config.reference == Setting(3, 0.1, 60, "balanced", "flat", "fungi", 0.5, "a")
    assert replace(config, kind=("plain",), gradient_weight=(0.5,)).reference.gradient_weight is None


def test_backbones_that_are_not_given(root: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(FungiSegError, match=r"backbone holds 'tinny'; did you mean 'tiny'\?; given: \['tiny'\]"):
        sweep(*splits(root), {"tiny": tiny_backbone}, tmp_path, replace(ONE, backbone=("tinny",)), None, PAD)


# Interrupted


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the indexes that are made; none is made after three, as if someone pressed Ctrl-C."""
    sizes: list[int] = []

    class Counting(sweeping.NeighbourIndex):
        def __init__(self, keys: np.ndarray, *options: Any, **named: Any):
            if len(sizes) == 3:
                raise KeyboardInterrupt
            sizes.append(len(keys))
            super().__init__(keys, *options, **named)

    monkeypatch.setattr(sweeping, "NeighbourIndex", Counting)
    return sizes


def test_a_sweep_that_was_interrupted_goes_on(
    root: Path,
    tiny_backbone: Backbone,
    tmp_path: Path,
    counting: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(ONE, size=(20, 30, 40), seeds=(0, 1))
    asked = (*splits(root), tiny_backbone, tmp_path / "one", config, FeatureConfig(kind="plain"), PAD)
    with pytest.raises(KeyboardInterrupt):
        sweep(*asked)
    assert counting == [20, 20, 30]
    counting.clear()
    monkeypatch.setattr(PatchFeatures, "__call__", refuse)
    report = sweep(*asked)
    assert counting == [30, 40, 40]
    monkeypatch.undo()
    whole = sweep(*asked[:3], tmp_path / "other", *asked[4:])
    assert report.results == whole.results


def test_what_is_new_is_measured(
    root: Path,
    tiny_backbone: Backbone,
    tmp_path: Path,
    counting: list[int],
) -> None:
    def measured(**changed: Any) -> int:
        counting.clear()
        config = replace(ONE, **changed)
        sweep(*splits(root), tiny_backbone, tmp_path, config, FeatureConfig(kind="plain"), PAD)
        return len(counting)

    assert measured() == 1
    assert measured() == 0
    assert measured(k=(3, 5)) == 1
    assert measured(k=(5,)) == 0
    assert measured(temperature=(0.1, 0.2), k=(3, 5)) == 1
    assert measured(seeds=(0, 1)) == 1
    assert measured(seeds=(1,), index=("int8",)) == 1
    for file in tmp_path.rglob("counts-*"):
        file.write_bytes(file.read_bytes()[:50])
    assert measured() == 1


def test_other_images_are_measured_again(
    root: Path,
    tiny_backbone: Backbone,
    tmp_path: Path,
    counting: list[int],
) -> None:
    train, val = splits(root)
    for images, made in ((val, 1), (replace(val, items=val.items[1:]), 1), (replace(val, items=val.items[1:]), 0)):
        counting.clear()
        sweep(train, images, tiny_backbone, tmp_path, ONE, FeatureConfig(kind="plain"), PAD)
        assert len(counting) == made


# The command


def test_command(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("val_0\nval_2\n")
    options = (
        "--kind=plain,fungi",
        "--gradient_weight=0.3,0.5",
        "--backbones=tiny,descriptor",
        "--features.kind=fungi",
    )
    more = ("--k=3", "--temperature=0.02", "--size=50", "--seeds=0", f"--val_file_list={tmp_path / 'ids.txt'}")
    code, out, err = call(*options, *more)
    assert code == 0
    assert "descriptor has no gradients" in " ".join(out.split())
    report = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert report["settings"]["data"]["val_images"] == 2
    assert report["settings"]["images"]["val_file_list"] == str(tmp_path / "ids.txt")
    assert set(report["settings"]["backbone"]) == {"tiny", "descriptor"}
    assert len(report["results"]) == 4
    lines = (tmp_path / "out" / "sweep.csv").read_text().splitlines()
    assert lines[0].startswith("k,temperature,size,sampling,index,kind,gradient_weight,backbone,rows")
    assert sum(line.startswith("3,0.02,50,balanced,auto,fungi,0.3,tiny,50") for line in lines) == 1
    _, again, err = call(*options, *more)
    assert err.count("was measured before") == 4
    assert [line for line in again.splitlines() if line.startswith("best")] == [
        line for line in out.splitlines() if line.startswith("best")
    ]
