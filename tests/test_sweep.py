"""The sweep: cells are what building and evaluating gives, features are computed once, differences are paired."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HALF, TINY
from PIL import Image
from trees import folder_tree, scene

from fungi_seg import (
    Backbone,
    BankConfig,
    DataConfig,
    DataError,
    DecoderConfig,
    FeatureConfig,
    FungiSegError,
    IndexConfig,
    InputConfig,
    LoadConfig,
    MemoryBank,
    PatchFeatures,
    RunConfig,
    Segmenter,
    build_bank,
    evaluate,
    open_dataset,
)
from fungi_seg.bank.settings import BankRecipe
from fungi_seg.cli import main
from fungi_seg.commands.options import option_parser
from fungi_seg.commands.table import COMMANDS, SECTIONS
from fungi_seg.config import flatten, read_yaml
from fungi_seg.search import index as search_index
from fungi_seg.sweep import patch_cache, sweeping
from fungi_seg.sweep.report import Measured, summarise
from fungi_seg.sweep.settings import DIMENSIONS, Setting, SweepConfig
from fungi_seg.sweep.sweeping import sweep

ROOT = Path(__file__).parent.parent
PAD = InputConfig(None, fit="pad")
SMALL = SweepConfig((1, 5), (0.01, 0.1), (60, None), ("balanced",), ("flat",), (0, 1))
REFERENCE = Setting(30, 0.02, 100, "balanced", "auto")


def save(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    Image.fromarray(image).save(folder / "images" / f"{name}.png")
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training and four validation images, one of each of another size that the patch doesn't divide."""
    root = folder_tree(tmp_path_factory.mktemp("data") / "tree", train=4, val=3)
    for split, seed in (("train", 7), ("val", 107)):
        save(root / split, "odd", *scene(seed, 45, 61))
    return root


def splits(root: Path) -> tuple[Any, Any]:
    train, val = (open_dataset(DataConfig(root=str(root), split=split)) for split in ("train", "val"))
    return train, val


def by_hand(root: Path, folder: Path, backbone: Backbone, result: dict[str, Any], seed: int, kind: str) -> float:
    """The mIoU of a bank built and evaluated with the settings of a result."""
    train, val = splits(root)
    size, sampling = result["size"], result["sampling"]
    out = folder / f"{size}_{sampling}_{seed}"
    if not out.exists():
        build_bank(
            train,
            backbone,
            out,
            BankRecipe(FeatureConfig(kind=kind), PAD, BankConfig(size=size, sampling=sampling), seed),
        )
    bank = MemoryBank.open(out)
    assert len(bank) == result["rows"]
    decoder = DecoderConfig(result["k"], result["temperature"])
    segmenter = Segmenter(bank, bank.patch_features(backbone=backbone), decoder, IndexConfig(result["index"]))
    assert segmenter.index.kind == result["built"]
    return evaluate(segmenter, val).miou


# Cells


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("fungi", SMALL),
        ("plain", replace(SMALL, size=(50,), sampling=("balanced", "uniform"), seeds=(3,))),
        ("fungi", replace(SMALL, k=(1, 20), size=(150,), index=("RaBitQ,Refine(SQfp16)",), seeds=(0,))),
        ("plain", replace(SMALL, k=(1, 20), size=(150,), index=("int8", "lists"), seeds=(0,))),
    ],
    ids=["sizes and seeds", "sampling", "approximate index", "own kinds of index"],
)
def test_cells_are_what_build_and_evaluate_give(
    root: Path, tiny_backbone: Backbone, tmp_path: Path, kind: str, config: SweepConfig
) -> None:
    report = sweep(*splits(root), tiny_backbone, tmp_path / "sweep", config, FeatureConfig(kind=kind), PAD)
    assert len({value for result in report.results for value in result["values"]}) > 2  # they aren't all alike
    for result in report.results:
        for seed, value in zip(config.seeds, result["values"], strict=True):
            assert value == pytest.approx(by_hand(root, tmp_path, tiny_backbone, result, seed, kind), abs=1e-6)


def test_lists_are_tuned_with_the_images_that_a_bank_names(
    root: Path, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[np.ndarray] = []
    real = search_index.tune
    monkeypatch.setattr(search_index, "tune", lambda *given, **more: asked.append(given[3]) or real(*given, **more))
    config = replace(SMALL, size=(60,), index=("lists",), seeds=(0,))
    report = sweep(*splits(root), tiny_backbone, tmp_path / "sweep", config, FeatureConfig(kind="plain"), PAD)
    by_hand(root, tmp_path, tiny_backbone, report.results[0], 0, "plain")
    ours, of_bank = asked
    np.testing.assert_array_equal(ours, of_bank)
    assert len(np.unique(ours)) > 2


def test_every_combination_is_there(root: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    config = SweepConfig((1, 3), (0.1, 0.01), (20, 30), ("balanced", "uniform"), ("auto", "flat"), (0,))
    report = sweep(*splits(root), tiny_backbone, tmp_path, config, FeatureConfig(kind="plain"), PAD)
    cells = [tuple(result[name] for name in DIMENSIONS) for result in report.results]
    assert len(cells) == len(set(cells)) == 32
    assert {cell[:3] for cell in cells} == {(k, t, s) for k in (1, 3) for t in (0.1, 0.01) for s in (20, 30)}


def test_a_bank_of_all_patches_is_measured_once(
    root: Path, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    class Counting(sweeping.NeighbourIndex):
        def __init__(self, keys: np.ndarray, *options: Any, **named: Any):
            sizes.append(len(keys))
            super().__init__(keys, *options, **named)

    monkeypatch.setattr(sweeping, "NeighbourIndex", Counting)
    config = replace(SMALL, size=(40, 10_000, None), sampling=("balanced", "uniform"))
    report = sweep(*splits(root), tiny_backbone, tmp_path, config, FeatureConfig(kind="plain"), PAD)
    assert sizes.count(40) == 4
    assert len(sizes) == 5
    everything = [r for r in report.results if r["size"] != 40 and (r["k"], r["temperature"]) == (5, 0.01)]
    assert len(everything) == 4
    assert len({value for r in everything for value in r["values"]}) == 1
    assert any("measured once" in note for note in report.notes)


# The cache


def cached(folder: Path, name: str) -> Path:
    """A file of the only kind of features in the cache."""
    (path,) = (folder / "out" / "cache").glob(f"*/{name}")
    return path


def refuse(*_: Any) -> None:
    raise AssertionError("features computed again")


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    """Images that a test may change."""
    return Path(shutil.copytree(root, tmp_path / "tree"))


@pytest.fixture
def run(copied: Path, tiny_backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Callable[..., Any]:
    """Sweep over the copied images: the figures, and what was logged."""
    caplog.set_level("INFO", "fungi_seg")

    def call(kind: str = "plain", seed: int = 0, **changed: Any) -> tuple[list[Any], str]:
        caplog.clear()
        features, config = FeatureConfig(kind=kind, seed=seed), replace(SMALL, seeds=(0,), **changed)
        report = sweep(
            *splits(copied), tiny_backbone, tmp_path / "out", config, features, PAD, RunConfig(progress=True)
        )
        return [result["values"] for result in report.results], caplog.text

    return call


def test_features_are_computed_once(run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, first = run()
    types = [np.load(cached(tmp_path, f"{name}-keys.npy")).dtype for name in ("train", "val")]
    assert types == [np.float16, np.float32]  # as in a bank, and as a segmenter searches
    assert "there already" not in first
    monkeypatch.setattr(PatchFeatures, "__call__", refuse)
    again, second = run()
    assert again == figures
    assert second.count("are there already") == 2
    run(temperature=(0.5,), k=(2,), size=(10,))


def test_other_features_are_computed_anew(run: Callable[..., Any], copied: Path) -> None:
    figures, _ = run("fungi", seed=1)
    others, told = run("fungi")
    assert others != figures
    assert told.count("made of other features; computed anew") == 2
    assert run()[0] != others
    assert run("fungi")[1].count("are there already") == 2  # plain ones lie beside them
    image = copied / "train" / "images" / "odd.png"
    os.utime(image, (1, 1))
    _, told = run("fungi")
    assert "train: the features there were made of other images; computed anew" in told
    assert "val: features of 4 images are there already" in told


@pytest.mark.parametrize("file", ["train.json", "train-keys.npy", "train-histograms.npy"])
@pytest.mark.parametrize("left", [0, 300])
def test_damaged_features_are_computed_anew(run: Callable[..., Any], tmp_path: Path, file: str, left: int) -> None:
    figures, _ = run()
    path = cached(tmp_path, file)
    path.write_bytes(path.read_bytes()[:left])
    again, told = run()
    assert again == figures
    assert "train: the features there are damaged" in told


def test_arrays_of_another_length_are_damaged(run: Callable[..., Any], tmp_path: Path) -> None:
    figures, _ = run()
    path = cached(tmp_path, "val-histograms.npy")
    np.save(path, np.load(path)[:-1])
    again, told = run()
    assert again == figures
    assert "the files don't fit each other" in told


def test_nothing_is_left_of_features_that_fail(run: Callable[..., Any], copied: Path, tmp_path: Path) -> None:
    run()
    broken = copied / "train" / "images" / "train_3.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match=r"train_3\.png"):
        run()
    kept = {path.name for path in cached(tmp_path, "val.json").parent.iterdir()}
    assert "train.json" not in kept
    assert not [name for name in kept if name.startswith(".")]
    broken.unlink()
    (copied / "train" / "masks" / "train_3.png").unlink()
    figures, told = run()
    assert "val: features of 4 images are there already" in told
    assert len(figures) == 8


def test_features_that_are_not_finite_name_the_images(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Backbone.tokens
    monkeypatch.setattr(Backbone, "tokens", lambda self, images: tokens(self, images) * float("nan"))
    with pytest.raises(FungiSegError, match=r"odd, train_0, train_1, train_2: the features \(plain\) are not finite"):
        run()


def test_cached_arrays(root: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    _, val = splits(root)
    features = PatchFeatures(tiny_backbone, FeatureConfig(kind="plain"))
    run = RunConfig(LoadConfig(batch_size=2))
    found = patch_cache.cached_patches(val, features, PAD, tmp_path / "val", np.float16, run)
    assert found.grids == ((6, 8),) * 4
    assert sorted(found.contents) == [(45, 61), (48, 64), (48, 64), (48, 64)]
    assert found.keys.dtype == np.float16
    assert found.keys.shape == (192, 24)
    np.testing.assert_allclose(np.linalg.norm(found.keys.astype(np.float32), axis=1), 1, atol=1e-3)
    masks = [val[i].mask for i in range(len(val))]
    for part, mask in zip(found.images(), masks, strict=True):
        assert found.histograms[part].sum(0).tolist() == [(mask == c).sum() for c in range(3)]


# Figures


def image_counts(right: np.ndarray, of: int = 100) -> np.ndarray:
    """Two classes of `of` pixels an image, `right` `[images]` of each found: `[1, images, 3, 2]`."""
    rows = np.stack([right, np.full_like(right, of), np.full_like(right, of)], axis=-1)
    return np.repeat(rows[None, :, :, None], 2, axis=-1)


def test_a_difference_shows_where_the_intervals_overlap() -> None:
    """Images differ much more than the settings, of which one is better on every image."""
    right = np.random.default_rng(2).integers(20, 80, 40)
    noise = np.random.default_rng(3).permutation(np.repeat([-6, 6], 20))
    better, alike = replace(REFERENCE, k=5), replace(REFERENCE, k=90)
    counts = {REFERENCE: right, better: right + 2, alike: right + noise}
    measured = {setting: Measured(100, "flat", image_counts(values)) for setting, values in counts.items()}
    base, gain, none = summarise(measured, REFERENCE)
    assert base["difference"] == 0
    assert base["difference_interval"] == [0, 0]
    assert not base["differs"]
    assert gain["interval"][0] < base["interval"][1]
    assert gain["differs"]
    assert gain["difference_interval"][0] > 0
    assert not none["differs"]
    assert none["difference_interval"][0] < 0 < none["difference_interval"][1]


def test_values_mean_and_deviation_of_seeds() -> None:
    counts = np.concatenate([image_counts(np.full(30, right)) for right in (40, 50, 60)])
    (result,) = summarise({REFERENCE: Measured(100, "flat", counts)}, REFERENCE)
    expected = [40 / 160, 50 / 150, 60 / 140]
    np.testing.assert_allclose(result["values"], expected)
    assert result["miou"] == pytest.approx(np.mean(expected))
    assert result["std"] == pytest.approx(np.std(expected, ddof=1))
    np.testing.assert_allclose(result["interval"], result["miou"])  # all images are alike


def test_reference_is_the_default_where_it_is_measured() -> None:
    assert SweepConfig((5, 30), (0.02, 0.5), (7_000, 102_400)).reference == replace(REFERENCE, size=102_400)
    config = SweepConfig((5, 7), (0.3, 0.2), (500, None), ("uniform",), ("flat",))
    assert config.reference == Setting(5, 0.3, 500, "uniform", "flat")


# The command


@pytest.fixture
def call(
    root: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command with a recipe: exit code, standard output, standard error."""
    recipe = tmp_path / "recipe.json.yaml"
    section = {
        "data": {"split": "train"},
        "backbone": {"name": "tiny", "weights": str(tiny_weights), "model_args": TINY, "mean": HALF, "std": HALF,
                     "dtype": "float32", "device": "cpu"},
        "input": {"size": None, "fit": "pad"},
        "features": {"kind": "plain"},
        "out": str(tmp_path / "out"),
    }  # fmt: skip
    recipe.write_text(json.dumps({"sweep": section}))

    def run(*options: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["sweep", str(recipe), f"--data.root={root}", *options])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_command(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    options = ("--k", "1,5", "--temperature", "0.01,0.02", "--size", "50,null", "--seeds", "0,1", "--index=flat")
    code, out, err = call(*options)
    assert (code, err.count("features, ")) == (0, 2)
    assert "bank 3/3, 240 rows, flat: 4/4 images" in err
    assert "reference" in out
    assert "4 labelled validation images are few" in " ".join(out.split())
    report = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert report["reference"] == {
        "k": 1, "temperature": 0.02, "size": 50, "sampling": "balanced", "index": "flat",
        "kind": "plain", "gradient_weight": None, "backbone": "tiny",
    }  # fmt: skip
    assert len(report["results"]) == 8
    assert report["settings"]["images"]["val_split"] == "val"
    best = max(report["results"], key=lambda result: result["miou"])
    assert f"mIoU {100 * best['miou']:.2f} %" in out
    with (tmp_path / "out" / "sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 16
    assert {(line["size"], line["rows"]) for line in lines} == {("50", "50"), ("all", "240")}
    assert [float(line["miou"]) for line in lines[:2]] == report["results"][0]["values"]
    markdown = (tmp_path / "out" / "sweep.md").read_text()
    assert markdown.count(f"| **{100 * best['miou']:.2f}** |") == 1
    assert markdown.count("| reference |") == 1
    assert "sampling balanced, index flat" in markdown
    with Image.open(tmp_path / "out" / "sweep.png") as three:
        wide = three.width
    call("--k", "1,5", "--temperature", "0.02", "--size", "[null]", "--index=flat")
    with Image.open(tmp_path / "out" / "sweep.png") as one:
        assert one.width < wide / 2


def test_one_setting_is_its_own_reference(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, _ = call("--k=3", "--temperature=0.02", "--size=50", "--seeds=0")
    assert code == 0
    assert "which is the reference" in out
    assert "sd" not in (tmp_path / "out" / "sweep.md").read_text().split("|---")[0]
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message", "expected"),
    [
        (["--k="], "k is []; it must hold at least one value", 2),
        (["--k=3,3"], "k is [3, 3]; it must hold at least one value, and none twice", 2),
        (["--seeds=[]"], "seeds is []; it must hold at least one value", 2),
        (["--k=0,5"], "k holds 0; each value must be at least 1", 2),
        (["--size=0"], "size holds 0; each value must be at least 1", 2),
        (["--seeds=-1"], "seeds holds -1; each value must be at least 0", 2),
        (["--temperature=0.1,0"], "temperature holds 0.0; each value must be a number above 0", 2),
        (["--temperature=.inf"], "temperature holds inf; each value must be a number above 0", 2),
        (["--sampling=balanced,uniformly"], "one of balanced, uniform; did you mean 'uniform'?", 2),
        (["--k=5,51", "--size=50,null"], "k holds 51, but the smallest bank has 50 rows", 2),
        (["--k=5,500", "--size=[null]"], "k holds 500, but the smallest bank has 240 rows", 1),
        (["--index=flat,fast"], "index holds 'fast', which FAISS can't make for 24 dimensions", 1),
        (["--val_split="], "val_split is empty", 2),
        (["--val_split=test"], "val_split is 'test', which must be a split beside data.split", 1),
        (["--val_split=train"], "5 of 5 validation images are training images too", 1),
        (["--features.kind=fungi", "--features.negatives=2"], "features.negatives is 2", 1),
        (["--data.root=nowhere"], "data.root is 'nowhere': no such folder", 1),
        (["--temperatures=1"], "did you mean '--temperature'?", 2),
        (["--kind=plain,fungus"], "kind is 'fungus'; it must be one of plain, fungi; did you mean 'fungi'?", 2),
        (["--kind=plain,plain"], "kind is ['plain', 'plain']; it must hold at least one value, and none twice", 2),
        (
            ["--kind=fungi", "--gradient_weight=0,1.5"],
            "gradient_weight holds 1.5; each value must be between 0 and 1",
            2,
        ),
        (["--kind=plain", "--gradient_weight=0.3"], "gradient_weight is [0.3], but features are plain", 2),
        (["--gradient_weight=0.3"], "gradient_weight is [0.3], but features are plain", 1),
        (["--backbones=tiny,tiny"], "backbones is ['tiny', 'tiny']; it must hold none twice", 2),
        (["--kind=fungi", "--backbones=descriptor"], "'descriptor' has no layer to take gradients of", 1),
        (["--backbones=tiny,descripter"], "did you mean 'descriptor'?", 1),
        (["--val_file_list=nowhere.txt"], "val_file_list is 'nowhere.txt', ids in the split 'val': file list", 1),
    ],
)
def test_mistakes(call: Callable[..., tuple[int, str, str]], options: list[str], message: str, expected: int) -> None:
    code, _, err = call(*options)
    assert code == expected
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["--k=five", "--size=all", "--temperature=cold"])
def test_values_of_another_type(call: Callable[..., tuple[int, str, str]], option: str) -> None:
    code, _, err = call(option)
    assert code == 2
    assert option.partition("=")[0][2:] in err


def test_mistakes_are_told_before_features_are_computed(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatchFeatures, "__call__", refuse)
    for options in (["--k=51", "--size=50"], ["--index=fast"], ["--val_split=train"]):
        assert call(*options)[0] != 0


def test_classes_of_the_splits_must_be_the_same(copied: Path, run: Callable[..., Any]) -> None:
    (copied / "val" / "classes.txt").write_text("background\ngreen\nred\n")
    with pytest.raises(FungiSegError, match="1: training 'red', validation 'green'"):
        run()
    (copied / "val" / "classes.txt").write_text("background\nred\ngreen\nblue\n")
    with pytest.raises(FungiSegError, match=r"have 3 classes, the validation images 4.*\n.*one list is longer"):
        run()


@pytest.mark.parametrize(
    ("split", "message"),
    [("train", "no labelled patch in 5 training images"), ("val", "every pixel of the 4 validation masks is void")],
)
def test_masks_without_labels(copied: Path, run: Callable[..., Any], split: str, message: str) -> None:
    for path in (copied / split / "masks").iterdir():
        with Image.open(path) as mask:
            void = Image.new("L", mask.size, 255)
        void.save(path)
    with pytest.raises(DataError, match=message):
        run()


def test_recipe_settings_are_options() -> None:
    names = {o[2:] for a in option_parser(COMMANDS["sweep"])._actions for o in a.option_strings}
    section = read_yaml(ROOT / "configs" / "sweep.yaml", SECTIONS)["sweep"]
    leaves = {name for name in names if not any(other.startswith(f"{name}.") for other in names)}
    assert flatten(section, leaves, "sweep")["val_split"] == "val"


def test_one_labelled_image_gives_no_interval(copied: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """The report says so, and draws no bars."""
    for path in sorted((copied / "val" / "masks").iterdir())[1:]:
        with Image.open(path) as mask:
            void = Image.new("L", mask.size, 255)
        void.save(path)
    config = replace(SMALL, seeds=(0,))
    report = sweep(*splits(copied), tiny_backbone, tmp_path / "out", config, FeatureConfig(kind="plain"), PAD)
    assert any("one labelled validation image gives no interval" in note for note in report.notes)
    for result in json.loads(report.to_json())["results"]:
        assert result["interval"] is result["difference_interval"] is None
        assert not result["differs"]
        assert 0 <= result["miou"] <= 1
    _, rows = report.table()
    assert all("no interval" in row for row in rows)
    assert "nan" not in report.to_markdown().lower()
    report.chart(tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 1000
