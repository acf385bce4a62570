# ruff: noqa: F811
"""A bank evaluated with several seeds: what is built again, and what can't be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import built
from test_cli import Run, backbone_options, run  # noqa: F401
from trees import folder_tree

from fungi_seg import (
    Backbone,
    BankConfig,
    BankError,
    DataConfig,
    DataError,
    FeatureConfig,
    FungiSegError,
    InputConfig,
    MemoryBank,
    PatchFeatures,
    RunConfig,
    Segmenter,
    append_images,
    evaluate,
    open_dataset,
)
from fungi_seg.bank import rebuild_bank, recipe_of, training_images
from fungi_seg.evaluation import Result, SeedReport, banks_of_seeds, draw_confusion, read_reports, seed_note
from fungi_seg.features import FeatureFiles, KeptFeatures
from fungi_seg.segmentation import class_iou_intervals, mean_iou_interval

RUN = RunConfig()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_tree(tmp_path_factory.mktemp("data") / "tree", train=5, val=3)


def build(root: Path, backbone: Backbone, out: Path, kind: str, seed: int = 0, **bank: Any) -> MemoryBank:
    features = FeatureConfig("fungi", seed=seed) if kind == "fungi" else FeatureConfig("plain")
    data = DataConfig(root=str(root), split="train")
    recipe = {"features": features, "input": InputConfig(None), "bank": BankConfig(40, **bank), "seed": seed}
    return built(open_dataset(data), backbone, out, **recipe, record={"data": vars(data)})


def rows(bank: MemoryBank) -> tuple[np.ndarray, ...]:
    return np.asarray(bank.rows.keys[np.arange(len(bank))]), np.asarray(bank.rows.source), np.asarray(bank.rows.box)


@pytest.mark.parametrize(("kind", "more"), [
    ("plain", {}), ("fungi", {}), ("plain", {"augment": True, "epochs": 2}), ("fungi", {"sampling": "uniform"}),
    ("plain", {"key_dtype": "int8"}),
])  # fmt: skip
def test_banks_are_those_that_build_makes(
    root: Path, tiny_backbone: Backbone, tmp_path: Path, kind: str, more: dict[str, Any]
) -> None:
    bank = build(root, tiny_backbone, tmp_path / "bank", kind, **more)
    found = []
    for seed, made, features in banks_of_seeds(bank, (0, 3), tiny_backbone, RUN, None, tmp_path / "near"):
        expected = bank if seed == 0 else build(root, tiny_backbone, tmp_path / "by hand", kind, seed, **more)
        for one, other in zip(rows(made), rows(expected), strict=True):
            np.testing.assert_array_equal(one, other)
        made.check_features(features)
        found.append(rows(made)[0])
    assert not np.array_equal(*found)
    assert list((tmp_path / "near").iterdir()) == []


def test_plain_features_are_computed_once(
    root: Path, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    computed = PatchFeatures.__call__

    def counting(self: PatchFeatures, images: torch.Tensor, names: Any = None) -> torch.Tensor:
        seen.append(len(images))
        return computed(self, images, names)

    bank = build(root, tiny_backbone, tmp_path / "bank", "plain")
    val = open_dataset(DataConfig(root=str(root), split="val"))
    monkeypatch.setattr(PatchFeatures, "__call__", counting)
    for _, made, features in banks_of_seeds(bank, (1, 2, 3), tiny_backbone, RUN, None, None):
        evaluate(Segmenter(made, features), val)
    assert sum(seen) == 5 + 3


def test_kept_features_are_those_of_the_image(tiny_backbone: Backbone, tmp_path: Path) -> None:
    config = FeatureConfig("plain")
    kept, plain = KeptFeatures(tiny_backbone, config, FeatureFiles(tmp_path)), PatchFeatures(tiny_backbone, config)
    images = torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    expected = plain(images)
    for _ in range(2):
        torch.testing.assert_close(kept(images), expected)
    torch.testing.assert_close(kept(images.flip(0)), expected.flip(0))
    assert len(list(tmp_path.iterdir())) == 3
    kept(images[:1].transpose(2, 3))  # the same numbers in another shape
    assert len(list(tmp_path.iterdir())) == 4


def seed_report(bank: MemoryBank, backbone: Backbone, root: Path, *seeds: int) -> SeedReport:
    val = open_dataset(DataConfig(root=str(root), split="val"))
    reports = {
        seed: evaluate(Segmenter(made, features), val)
        for seed, made, features in banks_of_seeds(bank, seeds, backbone, RUN, None, None)
    }
    return SeedReport(tuple(reports), tuple(reports.values()), (seed_note(bank),))


def test_report(root: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    bank = build(root, tiny_backbone, tmp_path / "bank", "plain")
    report = seed_report(bank, tiny_backbone, root, 0, 1, 2)
    values = [one.miou for one in report.reports]
    assert len(set(values)) == 3
    assert report.miou == pytest.approx(np.mean(values))
    assert report.std == pytest.approx(np.std(values, ddof=1))
    counts = Result.of("x", *report.reports).counts
    assert report.interval == mean_iou_interval(counts)
    assert [c["interval"] for c in report.classes()] == class_iou_intervals(counts)
    by_class = np.array([[c["iou"] for c in one.classes] for one in report.reports])
    np.testing.assert_allclose([c["iou"] for c in report.classes()], by_class.mean(0))
    np.testing.assert_allclose([c["std"] for c in report.classes()], by_class.std(0, ddof=1))
    assert np.array_equal(report.confusion, np.sum([one.confusion for one in report.reports], axis=0))
    text = report.to_json()
    (tmp_path / "seeds.json").write_text(text)
    assert [one.miou for one in read_reports(tmp_path / "seeds.json")] == values
    summary = json.loads(text)
    assert (summary["seeds"], summary["values"], summary["std"]) == ([0, 1, 2], values, report.std)
    markdown = report.to_markdown()
    assert all(f"| {' | '.join(row)} |" in markdown for row in (*report.class_rows(), *report.image_rows()))
    assert "from seed to seed differs which patches the bank holds;" in markdown
    draw_confusion(report, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 1000


def test_one_seed_has_no_spread(root: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    report = seed_report(build(root, tiny_backbone, tmp_path / "bank", "plain"), tiny_backbone, root, 5)
    assert report.std == 0
    assert all(c["std"] == 0 for c in report.classes())


def test_what_differs_is_named(root: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    bank = build(root, tiny_backbone, tmp_path / "bank", "fungi", augment=True)
    note = seed_note(bank)
    for part in ("which patches the bank holds", "how images are cropped and jittered", "FUNGI's head and projections"):
        assert part in note


# What can't be built again


def test_a_bank_that_was_changed(root: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    bank = build(root, tiny_backbone, tmp_path / "bank", "plain")
    assert recipe_of(bank.compact("int8")).bank.key_dtype == "int8"
    changed = append_images(
        MemoryBank.open(bank.path), open_dataset(DataConfig(root=str(root), split="val")), tiny_backbone
    )
    with pytest.raises(BankError, match=r"was changed since it was built \(append\).*build a bank of all these images"):
        next(iter(banks_of_seeds(changed, (1,), tiny_backbone, RUN, None, None)))


def test_data_that_moved(root: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """Found beside the images that are evaluated; or said to be gone."""
    here = Path(shutil.copytree(root, tmp_path / "here"))
    bank = build(here, tiny_backbone, tmp_path / "bank", "plain")
    here.rename(tmp_path / "there")
    assert len(training_images(bank, str(tmp_path / "there"))) == 5
    with pytest.raises(DataError, match=r"annotated images.*aren't there:\n.*here"):
        training_images(bank)


def test_images_that_came_or_went(root: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    here = Path(shutil.copytree(root, tmp_path / "here"))
    bank = build(here, tiny_backbone, tmp_path / "bank", "plain")
    for kind in ("images", "masks"):
        shutil.copy(here / "train" / kind / "train_0.png", here / "train" / kind / "more.png")
    with pytest.raises(DataError, match=r"0 of 5 are gone, 1 are new:\n  more"):
        training_images(bank)
    for kind in ("images", "masks"):
        (here / "train" / kind / "train_1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 5 are gone, 1 are new:\n  train_1"):
        training_images(bank)


def test_images_that_were_skipped_are_skipped_again(root: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    here = Path(shutil.copytree(root, tmp_path / "here"))
    (here / "train" / "images" / "train_2.png").write_bytes(b"nothing")
    data = DataConfig(root=str(here), split="train")
    recipe = {"features": FeatureConfig("plain"), "input": InputConfig(None), "bank": BankConfig(30)}
    bank = built(
        open_dataset(data), tiny_backbone, tmp_path / "bank", **recipe, skip_bad=True, record={"data": vars(data)}
    )
    made = rebuild_bank(bank, 4, training_images(bank), tiny_backbone, tmp_path / "new", RUN)
    assert made.info.sources == bank.info.sources
    assert len(made.info.build["skipped"]) == 1


def test_a_bank_without_a_record(root: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    dataset = open_dataset(DataConfig(root=str(root), split="train"))
    for record, message in (
        ({}, "its record doesn't name the annotated"),
        ({"data": {"layout": "mmseg"}}, "a program"),
    ):
        out = tmp_path / message
        bank = built(dataset, tiny_backbone, out, input=InputConfig(None), bank=BankConfig(30), record=record)
        with pytest.raises(BankError, match=message):
            training_images(bank)


def test_features_of_another_recipe_are_refused(root: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    bank = build(root, tiny_backbone, tmp_path / "bank", "fungi")
    wrong = PatchFeatures(tiny_backbone, FeatureConfig("fungi", seed=9))
    with pytest.raises(FungiSegError, match="give those of the recipe, or none"):
        rebuild_bank(bank, 1, training_images(bank), tiny_backbone, tmp_path / "new", RUN, wrong)


# The command


@pytest.fixture
def kept(root: Path, tiny_weights: Path, tmp_path: Path, run: Run) -> Path:
    options = ["--data.root", root, "--data.split", "train", "--input.size=null", "--bank.size=60"]
    assert run("build", "--out", tmp_path / "bank", *options, *backbone_options(tiny_weights))[0] == 0
    return tmp_path / "bank"


def test_command(run: Run, root: Path, kept: Path, tmp_path: Path) -> None:
    file = tmp_path / "out" / "seeds.json"
    options = ["--bank", kept, "--data.root", root, "--data.split", "val"]
    code, out, _ = run("evaluate", *options, "--seeds", "0,1", "--json", file, "--chart", tmp_path / "out" / "c.png")
    assert code == 0
    values = json.loads(file.read_text())
    assert f"mIoU {100 * values['miou']:.2f} %, sd over seeds" in out
    assert "FUNGI's head and projections" in " ".join(out.split())
    assert {path.name for path in file.parent.iterdir()} == {"seeds.json", "c.png"}
    run("evaluate", *options, "--json", tmp_path / "one.json")
    one = json.loads((tmp_path / "one.json").read_text())
    assert values["values"][0] == one["miou"] != values["values"][1]
    code, out, _ = run("compare", tmp_path / "one.json", file)
    assert code == 0
    assert "sd over seeds" in out
    assert f"{100 * (values['miou'] - one['miou']):+.2f}" in out


@pytest.mark.parametrize(
    ("options", "message", "expected"),
    [
        (["--seeds="], "seeds is []; it must hold numbers from 0 on, at least one, and none twice", 2),
        (["--seeds=1,1"], "seeds is [1, 1]; it must hold numbers", 2),
        (["--seeds=-1"], "seeds is [-1]; it must hold numbers", 2),
        (["--seeds=0,1", "--predictions=found", "--bank=null"], "--seeds is of a bank", 2),
    ],
)
def test_mistakes(
    run: Run,
    root: Path,
    kept: Path,
    options: list[str],
    message: str,
    expected: int,
) -> None:
    code, _, errors = run("evaluate", "--bank", kept, "--data.root", root, "--data.split", "val", *options)
    assert code == expected
    assert message in errors
