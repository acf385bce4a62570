"""The table of what fitting on a bank gains, and the tool that prints it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import HALF, TINY
from trees import folder_tree

from fungi_seg import BackboneConfig, DataConfig, FungiSegError, Segmenter, build_bank, evaluate, load_backbone
from fungi_seg.bank import BankConfig, BankRecipe, SourceImages
from fungi_seg.cli import tool
from fungi_seg.evaluation import compare_masks, mask_comparison
from fungi_seg.evaluation.backbone_comparison import datasets_of
from fungi_seg.evaluation.cases import Case
from fungi_seg.evaluation.mask_comparison import row_of
from fungi_seg.features import FeatureConfig
from fungi_seg.images import InputConfig
from fungi_seg.segmentation import DecoderConfig, fit_decoder, mean_iou_interval

TOOLS = Path(__file__).parent.parent / "tools"
CASE = Case("red of 6", DataConfig(layout="folder"), "shapes", (48, 64), score="red")


@pytest.fixture(autouse=True)
def _cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_comparison, "CASES", (CASE,))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    folder_tree(root / "shapes", train=6, val=3)
    return root


def test_figures_are_those_of_the_commands(
    root: Path, tiny_config: BackboneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both protocols, both kinds, by hand; and nothing is measured twice."""
    kept = tmp_path / "deep" / "counts.json"
    table = compare_masks(root, tiny_config, kept, ["red of 6"], (0,), rows=150)
    cells = [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]
    loaded = load_backbone(**vars(tiny_config))
    train, test = datasets_of(CASE, root)
    expected = []
    for kind in ("plain", "fungi"):
        recipe = BankRecipe(FeatureConfig(kind=kind), InputConfig((48, 64)), BankConfig(150))
        bank = build_bank(train, loaded, tmp_path / kind, recipe)
        features = bank.patch_features(backbone=loaded)
        for decoder in (
            DecoderConfig(),
            fit_decoder(bank, images=SourceImages(bank, CASE.source(root)), features=features).decoder,
        ):
            expected.append(f"{100 * evaluate(Segmenter(bank, features, decoder), test).classes[1]['iou']:.2f}")
    assert cells[:5] == ["red of 6", *expected]
    monkeypatch.setattr(mask_comparison, "measure_masks", None)
    assert compare_masks(root, tiny_config, kept, ["red of 6"], (0,), rows=150) == table


def test_a_row_holds_mean_spread_and_paired_intervals() -> None:
    """Of two seeds and five images."""
    counts = np.random.default_rng(0).integers(20, 90, (4, 2, 5, 3, 2))
    counts[:, :, :, 1:] += 90
    counts[:, :, :, 1] = counts[0, 0, :, 1]
    names = [(kind, protocol) for kind in ("plain", "fungi") for protocol in ("native", "best")]
    given = dict(zip(names, counts, strict=True))
    row = row_of(Case("nuclei", DataConfig(), "n", score="b"), ("a", "b"), given)
    for cell, one in zip(row[1:5], counts, strict=True):
        right, truth, said = one.sum(1)[..., 1].T
        iou = 100 * right / (truth + said - right)
        assert cell == f"{iou.mean():.2f} ({iou.min():.2f}–{iou.max():.2f})"
    totals = counts.sum(2)
    miou = (100 * totals[:, :, 0] / (totals[:, :, 1] + totals[:, :, 2] - totals[:, :, 0])).mean((1, 2))
    for cell, other in zip(row[5:], (2, 1), strict=True):
        interval = mean_iou_interval(counts[3], counts[other])
        assert interval is not None
        wanted = (miou[3] - miou[other], *(100 * value for value in interval))
        assert cell == "{:+.2f} ({:+.2f} to {:+.2f})".format(*wanted)


def test_unknown_cases(root: Path, tiny_config: BackboneConfig, tmp_path: Path) -> None:
    with pytest.raises(FungiSegError, match=r"cases has \['blue'\]; it must be among red of 6"):
        compare_masks(root, tiny_config, tmp_path / "counts.json", ["blue"])


def test_the_tool(
    root: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    masks = __import__("masks").masks
    options = ["--data.root", root, "--cases=[red of 6]", "--seeds=[3]", "--rows=150", "--size=[48, 64]"]
    options += ["--backbone.name=tiny", f"--backbone.weights={tiny_weights}", f"--backbone.mean={list(HALF)}"]
    options += [f"--backbone.model_args={json.dumps(TINY)}", f"--backbone.std={list(HALF)}", "--backbone.device=cpu"]
    monkeypatch.setattr(sys, "argv", ["masks.py", *map(str, options), "--json", str(tmp_path / "counts.json")])
    assert tool(masks) == 0
    assert capsys.readouterr().out.startswith("| case | plain native | plain best |")
    monkeypatch.setattr(sys, "argv", ["masks.py"])
    assert tool(masks) == 2
    assert "data.root is empty" in capsys.readouterr().err
