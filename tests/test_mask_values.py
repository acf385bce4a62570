"""What mask values and colours stand for by data.values, and void values that seem to be a class."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coco_tree import coco_tree
from PIL import Image
from test_cli import Run, backbone_options, run  # noqa: F401
from test_coco import pixel_maps
from test_labelling_masks import labelmap_tree
from trees import ade20k_tree, folder_tree, scene, voc_tree

from fungi_seg import Backbone, DataConfig, DataError, Dataset, MemoryBank, build_bank, open_dataset
from fungi_seg.bank.build import append_images, replace_images
from fungi_seg.bank.settings import BankRecipe
from fungi_seg.datasets.inspection import inspect_data
from fungi_seg.datasets.near_misses import mask_values
from fungi_seg.datasets.values import check_void, void_doubt
from fungi_seg.evaluation.evaluation import evaluate, evaluate_predictions
from fungi_seg.evaluation.predictions import open_predictions
from fungi_seg.images.settings import InputConfig
from fungi_seg.segmentation.segmenter import Segmenter

COLOURS = {0: (0, 0, 0), 1: (255, 0, 0), 2: (0, 0, 254), 255: (255, 255, 255)}
NAMED = ("0/0/0=background", "255/0/0=red", "0/0/254=green", "255/255/255=void")


def rewritten(
    root: Path, change: Callable[[np.ndarray], np.ndarray], names: str = "background\nnucleus\n", suffix: str = ".png"
) -> Path:
    """The tree with other mask values, of the scene's 0, 1 and a void corner (255), and other classes."""
    for path in sorted(root.rglob("masks/*.png")):
        with Image.open(path) as opened:
            mask = np.array(opened)
        path.unlink()
        Image.fromarray(change(mask)).save(path.with_suffix(suffix))
    (root / "classes.txt").write_text(names)
    return root


def binary(mask: np.ndarray) -> np.ndarray:
    """As ImageJ and OpenCV write it."""
    return np.where(mask == 1, 255, 0).astype(np.uint8)


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """Two classes, and masks of 0 and 255."""
    return rewritten(folder_tree(tmp_path / "data", classes=2), binary)


def opened(root: Path, *values: str, split: str | None = "train", layout: str = "folder", **more: object) -> Dataset:
    return open_dataset(DataConfig(layout, str(root), split, values=values, **more))  # type: ignore[arg-type]


def truth(seed: int = 0, void: bool = False) -> np.ndarray:
    mask = scene(seed, classes=2)[1].astype(int)
    return np.where(mask == 255, -1 if void else 0, mask)


def message(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as raised:
        call()
    return str(raised.value)


# What values stand for


@pytest.mark.parametrize("values", [("255=nucleus",), (" 255 = nucleus ", "7=void"), ("0=background", "1..=nucleus")])
def test_values_of_a_binary_mask(halves: Path, values: tuple[str, ...]) -> None:
    for seed, sample in enumerate(opened(halves, *values)):
        np.testing.assert_array_equal(sample.mask, truth(seed))


def test_values_that_are_not_named_keep_their_meaning(tmp_path: Path) -> None:
    root = rewritten(folder_tree(tmp_path, classes=2), lambda m: np.where(m == 1, 128, m).astype(np.uint8))
    np.testing.assert_array_equal(opened(root, "128=nucleus")[0].mask, truth(void=True))
    told = message(lambda: opened(root, "77=nucleus")[0])
    assert "class ids outside the 2 known classes: 128" in told
    assert "the void value (255), or one that data.values names. Add the class" in told


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_instances_are_one_class(tmp_path: Path, dtype: type) -> None:
    """Any id above 0, however large; single values come before spans, wherever they stand."""
    largest = min(np.iinfo(dtype).max, 10**6)

    def instances(mask: np.ndarray) -> np.ndarray:
        ids = np.where(mask == 1, 3, 0)
        ids[20:, ::2] = largest
        ids[-1] = 5
        return ids.astype(dtype)

    root = rewritten(folder_tree(tmp_path, classes=2), instances, suffix=".tif")
    expected = truth()
    expected[20:, ::2] = 1
    expected[-1] = 1
    np.testing.assert_array_equal(opened(root, "1..=nucleus")[0].mask, expected)
    expected[-1] = -1
    for values in (("1..=nucleus", "5=void"), ("5=void", "1..=nucleus")):
        np.testing.assert_array_equal(opened(root, *values)[0].mask, expected)
    if largest <= 255:
        np.testing.assert_array_equal(opened(root, "1..9=nucleus")[0].mask[20:-1, ::2], -1)


def test_spans_end_where_they_say(tmp_path: Path) -> None:
    root = rewritten(folder_tree(tmp_path, classes=2), lambda m: np.where(m == 1, 10, 0).astype(np.uint8))
    np.testing.assert_array_equal(opened(root, "2..10=nucleus")[0].mask, truth())
    assert "10 (" in message(lambda: opened(root, "2..9=nucleus")[0])


def test_data_void_is_void_in_a_span_too(tmp_path: Path) -> None:
    root = rewritten(folder_tree(tmp_path, classes=2), lambda m: np.where(m == 1, 9, m).astype(np.uint8))
    np.testing.assert_array_equal(opened(root, "1..=nucleus", void=255)[0].mask, truth(void=True))
    whole = np.where(truth(void=True) == -1, 1, truth(void=True))
    np.testing.assert_array_equal(opened(root, "1..=nucleus")[0].mask, whole)


def test_a_class_called_void_is_a_class(tmp_path: Path) -> None:
    root = rewritten(folder_tree(tmp_path, classes=2), binary, "background\nvoid\n")
    np.testing.assert_array_equal(opened(root, "255=void")[0].mask, truth())


def test_classes_are_chosen_from_what_is_named(halves: Path) -> None:
    data = opened(halves, "255=nucleus", classes=("nucleus",))
    np.testing.assert_array_equal(data[0].mask, truth())
    assert opened(halves, "255=nucleus", merge=("all=background,nucleus",))[0].mask.max() == 0


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (("nucleus",), "data.values has 'nucleus'; it must be like 255=nucleus, 1..9=nucleus"),
        (("255=",), "it must be like"),
        (("=nucleus",), "it must be like"),
        (("-1=nucleus",), "it must be like"),
        (("..9=nucleus",), "it must be like"),
        (("1..9",), "it must be like"),
        (("#ff0000=nucleus",), "and void stands for unlabelled; write a colour as red/green/blue"),
        (("255=nucleos",), "'nucleos' is no class of the data set; did you mean 'nucleus'?"),
        (("65536=nucleus",), "data.values has '65536=nucleus'; values are 0..65535, the smaller one first"),
        (("9..1=nucleus",), "data.values has '9..1=nucleus'; values are 0..65535, the smaller one first"),
        (("0/0/256=nucleus",), "data.values has '0/0/256=nucleus'; each of red/green/blue is 0..255"),
        (("255=nucleus", "255=void"), "data.values names 1 values more than once:\n  255"),
        (("1..9=nucleus", "5..=void"), "data.values says twice what 5 stands for, in two spans"),
        (("255=nucleus", "255/0/0=nucleus"), "masks have values or colours; name only one of them"),
    ],
)
def test_entries_that_are_wrong(halves: Path, values: tuple[str, ...], told: str) -> None:
    assert told in message(lambda: opened(halves, *values))


def test_void_that_is_named_as_a_class(halves: Path) -> None:
    told = message(lambda: opened(halves, "255=nucleus", void=255))
    assert "data.void is 255, which data.values names as a class; leave out one of both" in told
    assert len(opened(halves, "255=void", void=255)) == 4


def test_the_layouts_of_mask_images(tmp_path: Path) -> None:
    voc = voc_tree(tmp_path / "voc")
    plain = opened(voc, layout="voc", split="val")[0].mask
    changed = opened(voc, "1=person", "255=car", layout="voc", split="val")[0].mask
    np.testing.assert_array_equal(changed, np.select([plain == 1, plain == -1], [15, 7], plain))
    ade = ade20k_tree(tmp_path / "ade")
    plain = opened(ade, layout="ade20k")[0].mask
    changed = opened(ade, "150=wall", "0=sky", layout="ade20k")[0].mask
    np.testing.assert_array_equal(changed, np.select([plain == 149, plain == -1], [0, 2], plain))


def test_pixel_maps(tmp_path: Path) -> None:
    tree = coco_tree(tmp_path / "coco")
    pixel_maps(tree)
    plain = opened(tree, layout="coco", masks="maps", void=90)
    last, value = plain.classes[-1], plain.read.values[0]  # type: ignore[attr-defined]
    changed = opened(tree, f"{value}={last}", layout="coco", masks="maps", void=90)
    expected = np.where(plain[0].mask == 0, len(plain.classes) - 1, plain[0].mask)
    np.testing.assert_array_equal(changed[0].mask, expected)
    told = message(lambda: opened(tree, f"{value}={last}", layout="coco"))
    assert f"data.values is {value}={last}, but these annotations have no mask values" in told


def test_what_is_named_changes_the_reading(halves: Path) -> None:
    """So that rows of a build which was stopped aren't taken for those of another."""
    assert opened(halves, "255=nucleus").reading != opened(halves, "255=void").reading


# Colours


def coloured(mask: np.ndarray) -> np.ndarray:
    return np.array([[COLOURS[int(value)] for value in row] for row in mask], np.uint8)


def test_colours_stand_for_classes(tmp_path: Path) -> None:
    root = rewritten(folder_tree(tmp_path), coloured, "background\nred\ngreen\n")
    mask = scene(0)[1].astype(int)
    np.testing.assert_array_equal(opened(root, *NAMED)[0].mask, np.where(mask == 255, -1, mask))
    told = message(lambda: opened(root, *NAMED[:2])[0])
    assert "2 colours (r,g,b) that are neither a class nor void: 0,0,254" in told
    assert "Name each with --data.values, such as 255/0/0=NAME or 0/0/0=void" in told


def test_colour_masks_that_nobody_explains(tmp_path: Path) -> None:
    root = rewritten(folder_tree(tmp_path), coloured, "background\nred\ngreen\n")
    told = message(lambda: opened(root)[0])
    assert "train_0.png: the mask is a RGB image" in told
    assert "or say what they stand for with --data.values, such as 255/255/255=NAME" in told
    assert "the mask has 0/0/0, 0/0/254, 255/0/0, 255/255/255 (red/green/blue)" in told
    assert "with --data.values" in message(lambda: mask_values(root / "train" / "masks"))


def test_a_mask_of_many_colours(tmp_path: Path) -> None:
    def mixed(mask: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (*mask.shape, 3)).astype(np.uint8)

    root = rewritten(folder_tree(tmp_path), mixed)
    assert message(lambda: opened(root)[0]).endswith(", … (red/green/blue)")


def test_colours_beside_data_void(tmp_path: Path) -> None:
    root = rewritten(folder_tree(tmp_path), coloured, "background\nred\ngreen\n")
    told = message(lambda: opened(root, *NAMED, void=255))
    assert "data.void is 255, but data.values names colours; leave it out, and name the colour of void" in told


def test_colours_of_grey_masks(halves: Path, tmp_path: Path) -> None:
    """Those of 16 bits are scaled where they are read as colours, each by its brightest value."""
    values = ("0/0/0=background", "255/255/255=nucleus")
    np.testing.assert_array_equal(opened(halves, *values)[0].mask, truth())
    root = rewritten(folder_tree(tmp_path / "deep", classes=2), lambda m: np.where(m == 1, 2, 0).astype(np.uint16))
    assert "grey, of 16 bits or more, so it has values and no colours" in message(lambda: opened(root, *values)[0])


def test_a_label_map_and_more_colours(tmp_path: Path) -> None:
    root = labelmap_tree(tmp_path)
    mask = opened(root, layout="voc", split=None)[0].mask
    changed = opened(root, "10/20/30=background", layout="voc", split=None)[0].mask
    np.testing.assert_array_equal(changed, np.where(mask == 2, 0, mask))
    told = message(lambda: opened(root, "2=background", layout="voc", split=None))
    assert "data.values has '2=background', but these masks give classes by colours" in told


# Void that seems to be a class

FOUND = "class 'nucleus': no pixel; 255, which counts as void, covers "
WAYS = "say so with --data.values 255=nucleus. If 255 does mean unlabelled, say so with --data.void 255"


def test_an_object_that_counts_as_void(halves: Path) -> None:
    doubt = void_doubt(opened(halves))
    assert doubt is not None
    share = np.mean([truth(seed) == 1 for seed in range(4)])
    assert doubt.text.startswith(f"{FOUND}{share:.1%} of the 4 masks, and all others are 'background'.")
    assert doubt.text.endswith(WAYS)
    assert doubt.values == ("255=nucleus",)
    assert void_doubt(opened(halves, *doubt.values)) is None
    assert void_doubt(opened(halves, void=255)) is None
    assert void_doubt(opened(halves, "255=void")) is None


def test_the_background_may_be_what_counts_as_void(tmp_path: Path) -> None:
    root = rewritten(folder_tree(tmp_path, classes=2), lambda m: np.where(m == 1, 1, 255).astype(np.uint8))
    doubt = void_doubt(opened(root))
    assert doubt is not None
    assert doubt.values == ("255=background",)


@pytest.mark.parametrize("workers", [0, 2])
def test_one_pixel_of_another_class_is_enough(halves: Path, workers: int) -> None:
    """Wherever it is: void is void then, and the class rare."""
    for name in ("train_0", "train_2", "train_3"):
        path = halves / "train" / "masks" / f"{name}.png"
        mask = binary(scene(0)[1])
        mask[40, 40] = 1
        before = path.read_bytes()
        Image.fromarray(mask).save(path)
        assert void_doubt(opened(halves), workers) is None
        path.write_bytes(before)
    assert void_doubt(opened(halves), workers) is not None


def test_masks_without_void_or_without_a_label_are_no_sign(tmp_path: Path) -> None:
    empty = rewritten(folder_tree(tmp_path / "a", classes=2), np.zeros_like)
    void = rewritten(folder_tree(tmp_path / "b", classes=2), lambda m: np.full_like(m, 255))
    assert void_doubt(opened(empty)) is None
    assert void_doubt(opened(void)) is None


def test_an_absent_class_among_many_is_no_sign(tmp_path: Path) -> None:
    """A VOC tree has 21 classes, of which 3 are there, and void borders."""
    assert void_doubt(opened(voc_tree(tmp_path), layout="voc", split="val")) is None


def test_many_classes_and_only_one_that_is_there(tmp_path: Path) -> None:
    root = rewritten(folder_tree(tmp_path), binary, "background\n" + "".join(f"c{i}\n" for i in range(6)))
    doubt = void_doubt(opened(root))
    assert doubt is not None
    assert doubt.text.startswith("classes 'c0', 'c1', 'c2' and 3 more: no pixel; 255")
    assert "--data.values 255=NAME." in doubt.text
    assert doubt.values == ()


def test_one_listed_class(tmp_path: Path) -> None:
    """Who lists the object only gets a bank in which the background is the object."""
    root = rewritten(folder_tree(tmp_path, classes=2), binary, "nucleus\n")
    doubt = void_doubt(opened(root))
    assert doubt is not None
    assert doubt.text.startswith("'nucleus' is the only class that is listed")
    assert "write background as the first line of classes.txt" in doubt.text
    assert void_doubt(opened(root, void=255)) is None


def test_classes_that_are_left_out_do_not_count(halves: Path) -> None:
    assert void_doubt(opened(halves, classes=("background",))) is None
    doubt = void_doubt(opened(halves, classes=("nucleus",)))
    assert doubt is not None
    assert doubt.values == ("255=nucleus",)
    root = rewritten(halves, lambda m: m, "ground\nnucleus\n")
    doubt = void_doubt(opened(root, classes=("nucleus",)))
    assert doubt is not None
    assert "all others are 'value 0'" in doubt.text


def test_wide_masks(tmp_path: Path) -> None:
    """Of more than 255 classes the value taken for void is 65535."""
    names = "".join(f"c{i}\n" for i in range(300))
    root = rewritten(folder_tree(tmp_path), lambda m: np.where(m == 1, 65535, 0).astype(np.uint16), names)
    doubt = void_doubt(opened(root))
    assert doubt is not None
    assert "65535, which counts as void" in doubt.text


def test_masks_that_cannot_be_read_are_told_when_their_turn_comes(halves: Path) -> None:
    (halves / "train" / "masks" / "train_0.png").write_bytes(b"no image")
    assert void_doubt(opened(halves)) is not None


def test_few_masks_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = opened(folder_tree(tmp_path, train=30)), []

    def counted(path: Path) -> np.ndarray:
        seen.append(path)
        with Image.open(path) as mask:
            return np.array(mask).astype(np.int32)

    monkeypatch.setattr("fungi_seg.datasets.values.values_in", counted)
    check_void(data)
    assert len(seen) == 1


# What the commands say


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_no_bank_is_built_of_it(halves: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    told = message(lambda: build_bank(opened(halves), tiny_backbone, tmp_path / "bank"))
    assert told.startswith(FOUND)
    assert not (tmp_path / "bank").exists()


def test_append_and_replace_refuse_it(halves: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    bank = build_bank(
        opened(halves, "255=nucleus"), tiny_backbone, tmp_path / "bank", BankRecipe(input=InputConfig(size=32))
    )
    before = files(tmp_path / "bank"), (tmp_path / "bank" / "bank.json").read_bytes()
    assert message(lambda: append_images(bank, opened(halves, split="val"), tiny_backbone)).startswith(FOUND)
    assert message(lambda: replace_images(bank, opened(halves), tiny_backbone)).startswith(FOUND)
    assert (files(tmp_path / "bank"), (tmp_path / "bank" / "bank.json").read_bytes()) == before
    assert len(append_images(bank, opened(halves, "255=nucleus", split="val"), tiny_backbone)) > len(bank)


def test_from_masks_of_0_and_255_to_a_report(
    run: Run,  # noqa: F811
    halves: Path,
    tiny_weights: Path,
    tmp_path: Path,
) -> None:
    bank, options = tmp_path / "bank", ["--data.root", halves, "--input.size", 32, *backbone_options(tiny_weights)]
    code, _, err = run("build", *options, "--data.split", "train", "--out", bank)
    assert code == 1
    assert WAYS in err
    assert not bank.exists()
    values = ["--data.values", "255=nucleus,128=void"]
    code, _, err = run("build", *options, "--data.split", "train", *values, "--bank.size", "null", "--out", bank)
    assert code == 0, err
    assert "no row of" not in err
    assert MemoryBank.open(bank).class_rows().min() > 0
    assert MemoryBank.open(bank).info.build["data"]["values"] == ["255=nucleus", "128=void"]
    report, text = tmp_path / "report.json", tmp_path / "report.md"
    wanted = ["evaluate", "--bank", bank, "--data.root", halves, "--data.split", "val"]
    code, _, err = run(*wanted, "--json", report, "--markdown", text)
    assert code == 0
    assert f"DON'T TRUST THESE FIGURES: {FOUND}" in err
    assert json.loads(report.read_text())["doubts"][0].endswith(WAYS)
    assert f"**Don't trust these figures:** {FOUND}" in text.read_text()
    code, _, err = run(*wanted, *values, "--json", report, "--markdown", text)
    assert code == 0
    assert "TRUST" not in err
    assert json.loads(report.read_text())["doubts"] == []
    assert json.loads(report.read_text())["classes"][1]["truth_pixels"] > 0
    assert "trust" not in text.read_text()


def test_a_class_without_a_row_is_told(run: Run, halves: Path, tiny_weights: Path, tmp_path: Path) -> None:  # noqa: F811
    options = ["--data.root", halves, "--data.split", "train", "--data.void", 255, *backbone_options(tiny_weights)]
    code, _, err = run("build", *options, "--input.size", 32, "--bank.size", "null", "--out", tmp_path / "bank")
    assert code == 0
    assert "no row of 1 of 2 classes, which can't be found in images:\n  nucleus" in err


def test_predictions_have_the_values_of_the_data(halves: Path, tmp_path: Path) -> None:
    """Masks of 0 and 255 on both sides; the truth itself as a prediction is right."""
    for options in ({}, {"classes": ("nucleus",)}, {"merge": ("cell=nucleus",)}):
        data = opened(halves, "255=nucleus", split="val", **options)
        found = open_predictions(halves / "val" / "masks", data)
        assert evaluate_predictions(found, data).miou == 1.0
        assert "and as data.values says" in found.notes[0]
    (tmp_path / "pred").mkdir()
    for i in range(2):
        Image.fromarray(truth(100 + i).astype(np.uint8)).save(tmp_path / "pred" / f"val_{i}.png")
    (tmp_path / "pred" / "classes.txt").write_text("background\nnucleus\n")
    data = opened(halves, "255=nucleus", split="val")
    assert evaluate_predictions(open_predictions(tmp_path / "pred", data), data).miou == 1.0


def test_an_evaluation_of_some_classes_has_no_doubt(tmp_path: Path, tiny_backbone: Backbone) -> None:
    root = folder_tree(tmp_path / "data")
    bank = build_bank(opened(root), tiny_backbone, tmp_path / "bank", BankRecipe(input=InputConfig(size=32)))
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
    assert evaluate(segmenter, opened(root, split="val")).doubts == []


def test_inspection_proposes_the_option(run: Run, halves: Path, tmp_path: Path) -> None:  # noqa: F811
    code, out, _ = run("data", "inspect", halves, "--out", tmp_path / "out", "--json", tmp_path / "report.json")
    assert code == 0
    assert f"train, problems (1):\n  {FOUND}" in out
    assert out.count("--data.split train --data.values 255=nucleus --backbone.name embedded --out") == 1
    assert out.count("--data.split val --data.values 255=nucleus\n") == 1
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["splits"]["train"]["problems"][0].endswith(WAYS)
    code, out, _ = run("data", "inspect", halves, "--data.values", "255=nucleus", "--out", tmp_path / "out")
    assert code == 0
    assert FOUND not in out
    assert out.count("--data.values 255=nucleus") == 2


def test_class_names_with_commas(run: Run, halves: Path, tmp_path: Path) -> None:  # noqa: F811
    """What is proposed can be used as it stands."""
    (halves / "classes.txt").write_text("background\ncell, round\n")
    code, out, _ = run("data", "inspect", halves, "--out", tmp_path / "out")
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("  fungi-seg build"))
    words = shlex.split(line)
    assert words[words.index("--data.values") + 1] == '["255=cell, round"]'
    code, out, _ = run("data", "inspect", halves, "--data.values", '["255=cell, round"]', "--out", tmp_path / "out")
    assert code == 0
    assert "which counts as void" not in out


def test_values_in_a_recipe(run: Run, halves: Path, tiny_weights: Path, tmp_path: Path) -> None:  # noqa: F811
    recipe = tmp_path / "recipe.yaml"
    data = f"{{root: {halves}, split: train, values: [255=nucleus, 9..=void]}}"
    recipe.write_text(f"build:\n  data: {data}\n  input: {{size: 32}}\n")
    code, _, err = run("build", "--config", recipe, *backbone_options(tiny_weights), "--out", tmp_path / "bank")
    assert code == 0, err
    assert MemoryBank.open(tmp_path / "bank").info.build["data"]["values"] == ["255=nucleus", "9..=void"]


def test_inspection_has_no_doubt_otherwise(tmp_path: Path) -> None:
    report = inspect_data({"train": opened(folder_tree(tmp_path))})
    assert report.splits["train"].doubt is None


def test_masks_without_a_class_list(run: Run, halves: Path, tmp_path: Path) -> None:  # noqa: F811
    (halves / "classes.txt").unlink()
    code, _, err = run("data", "inspect", halves, "--out", tmp_path / "out")
    assert code == 1
    assert "a few of the masks hold the values 0, 255; where these aren't line numbers and 255 for void, say" in err
