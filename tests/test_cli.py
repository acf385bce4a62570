"""The command line: what people do with it, and every mistake they can make."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import HALF, TINY
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from trees import ade20k_tree, folder_tree, scene, voc_tree

from fungi_seg import DecoderConfig, MemoryBank, Segmenter
from fungi_seg.cli import main
from fungi_seg.errors import DataError
from fungi_seg.results import find_images

TOOLS = Path(__file__).parent.parent / "tools"
Output = tuple[int, str, str]
Run = Callable[..., Output]


def backbone_options(weights: Path) -> list[str]:
    return [
        "--backbone.name=tiny",
        f"--backbone.weights={weights}",
        f"--backbone.model_args={json.dumps(TINY)}",
        f"--backbone.mean={list(HALF)}",
        f"--backbone.std={list(HALF)}",
        "--backbone.dtype=float32",
    ]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> Output:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training and two validation images."""
    return folder_tree(tmp_path_factory.mktemp("data") / "tree")


@pytest.fixture(scope="module")
def bank(data: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FUNGI bank of all 192 patches, built by the command line."""
    out = tmp_path_factory.mktemp("banks") / "bank"
    arguments = ["--data.root", data, "--data.split", "train", "--input.size", "null", "--out", out]
    assert main(["build", *map(str, arguments), *backbone_options(tiny_weights)]) == 0
    return out


def contents(folder: Path) -> dict[str, str]:
    """Everything below `folder`: files with the SHA-256 of their bytes, folders with none."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


# What people do


def test_build_and_inspect(run: Run, bank: Path, tiny_weights: Path) -> None:
    code, out, _ = run("bank", "inspect", "--bank", bank)
    assert code == 0
    assert "green" in out
    code, out, _ = run("bank", "inspect", "--bank", bank, "--json", "-")
    facts = json.loads(out)
    assert code == 0
    assert (facts["rows"], facts["width"], facts["images"], facts["backbone"]) == (192, 48, 4, "tiny")
    assert facts["features"]["kind"] == "fungi"
    assert facts["build"]["data"]["split"] == "train"
    assert facts["fingerprint"] == MemoryBank.open(bank).info.fingerprint
    counts = MemoryBank.open(bank).rows.labels.dense(3) > 0
    assert [c["rows"] for c in facts["classes"]] == counts.sum(0).tolist()


def test_build_reports_rows_and_progress(run: Run, data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    options = ["--data.root", data, "--data.split", "train", "--input.size=null", "--bank.size", 50]
    code, out, err = run("build", "--out", tmp_path / "bank", *options, *backbone_options(tiny_weights))
    assert code == 0
    assert "50 rows of 48 from 4 images" in out
    assert "memory bank: 4/4 images" in err


def test_segment_folder(run: Run, bank: Path, data: Path, tmp_path: Path) -> None:
    code, out, err = run("segment", data / "val" / "images", "--bank", bank, "--out", tmp_path, "--scores")
    assert code == 0
    assert "2 images segmented" in out
    assert "segmentation: 2/2 images" in err
    names = [f"{kind}/val_{i}.{end}" for kind, end in (("masks", "png"), ("overlays", "jpg")) for i in range(2)]
    names += ["scores/val_0.npy", "scores/val_1.npy", "classes.txt", "masks", "overlays", "scores"]
    names += [f"report/{kind}/val_{i}.jpg" for kind in ("images", "thumbnails") for i in range(2)]
    names += ["report", "report/images", "report/thumbnails", "report/voters"]
    names += [f"report/voters/{i}.jpg" for i in range(len(list((tmp_path / "report" / "voters").iterdir())))]
    names += ["index.html", "images.csv", "run.jsonl"]
    assert contents(tmp_path).keys() == set(names)
    expected = Segmenter(bank).predict(data / "val" / "images" / "val_1.png")
    with Image.open(tmp_path / "masks" / "val_1.png") as mask, Image.open(tmp_path / "overlays" / "val_1.jpg") as over:
        assert mask.mode == "L"
        np.testing.assert_array_equal(np.asarray(mask), expected.mask)
        assert over.size == (64, 48)
    scores = np.load(tmp_path / "scores" / "val_1.npy", allow_pickle=False)
    assert (scores.dtype, scores.shape) == (np.float16, (3, 48, 64))
    np.testing.assert_allclose(scores, expected.scores, atol=1e-3)
    assert (tmp_path / "classes.txt").read_text() == "background\nred\ngreen\n"


@pytest.mark.parametrize("form", ["png", "tiff", "palette"])
def test_masks_as_other_tools_read_them(run: Run, bank: Path, data: Path, tmp_path: Path, form: str) -> None:
    images = data / "val" / "images"
    assert run("segment", images, "--bank", bank, "--out", tmp_path, "--masks.format", form)[0] == 0
    expected = Segmenter(bank).predict(images / "val_1.png")
    path = tmp_path / "masks" / ("val_1.tif" if form == "tiff" else "val_1.png")
    assert len(list(path.parent.iterdir())) == 2
    assert run("evaluate", "--predictions", tmp_path, "--data.root", data, "--data.split", "val")[0] == 0
    with Image.open(path) as mask:
        np.testing.assert_array_equal(np.asarray(mask), expected.mask)
        colours = np.asarray(mask.convert("RGB"))
    if form == "palette":
        np.testing.assert_array_equal(colours, expected.palette[expected.mask])
    else:
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), expected.mask)


def test_segment_files_and_patterns(run: Run, bank: Path, data: Path, tmp_path: Path) -> None:
    images = data / "val" / "images"
    given = [images / "val_1.png", images / "val_?.png", data / "**" / "images" / "train_[02].png"]
    code, _, _ = run("segment", *given, "--bank", bank, "--out", tmp_path / "out", "--overlays.style", "none")
    assert code == 0
    found = {path.stem for path in (tmp_path / "out").rglob("*.png")}
    assert found == {"val_0", "val_1", "train_0", "train_2"}
    assert not (tmp_path / "out" / "overlays").exists()
    assert not (tmp_path / "out" / "scores").exists()


def test_segment_keeps_folders_apart(run: Run, bank: Path, tmp_path: Path) -> None:
    """Two images of one name in two sub-folders of the folder searched."""
    for folder in ("a", "b/c"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        Image.fromarray(scene(1)[0]).save(tmp_path / "in" / folder / "photo.1.PNG")
    code, _, _ = run("segment", tmp_path / "in", "--bank", bank, "--out", tmp_path / "out", "--overlays.style=none")
    assert code == 0
    masks = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")}
    assert masks == {"masks/a/photo.1.png", "masks/b/c/photo.1.png"}


def test_evaluate(run: Run, bank: Path, data: Path, tmp_path: Path) -> None:
    report, text = tmp_path / "deep" / "report.json", tmp_path / "report.md"
    options = ["--data.root", data, "--data.split", "val", "--json", report, "--markdown", text]
    code, out, _ = run("evaluate", "--bank", bank, *options, "--protocol", "native")
    assert code == 0
    values = json.loads(report.read_text(encoding="utf-8"))
    assert f"mIoU {values['miou'] * 100:.2f} %" in out
    assert values["miou"] > 0.5
    assert values["images"] == 2
    assert values["notes"] == []
    assert values["settings"]["protocol"] == "native"
    assert values["settings"]["data"]["root"] == str(data)
    assert text.read_text(encoding="utf-8").startswith(f"# mIoU {values['miou'] * 100:.2f}")
    assert contents(tmp_path).keys() == {"deep", "deep/report.json", "report.md"}


def test_protocol_from_build_to_report(run: Run, data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """What was built by a protocol is evaluated by it; what differs from it stands in the report."""
    out = tmp_path / "bank"
    options = ["--data.root", data, "--data.split", "train", "--protocol", "fungi", "--input.size", 64]
    assert run("build", "--out", out, *options, *backbone_options(tiny_weights))[0] == 0
    info = MemoryBank.open(out).info
    assert (info.input.size, info.input.keep_aspect, info.build["void"]) == (64, False, "background")
    report = tmp_path / "report.json"
    options = ["--data.root", data, "--data.split", "val", "--protocol=fungi", "--json", report]
    assert run("evaluate", "--bank", out, *options)[0] == 0
    values = json.loads(report.read_text())
    assert values["settings"]["metric"] == {"mask_size": "input", "matching": "hungarian", "absent": "zero"}
    assert sum(map(sum, values["confusion"])) <= 2 * 64 * 64
    different = [note for note in values["notes"] if note.startswith("not as protocol")]
    assert [note.partition(": ")[2].partition(" =")[0] for note in different] == [
        "the bank has input.size",
        "the bank has backbone.mean",
        "the bank has backbone.std",
    ]


def test_best_of_a_bank_that_was_never_fitted_says_so(run: Run, bank: Path, data: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--bank", bank, "--data.root", data, "--data.split", "val", "--json", report]
    said = f"nothing was fitted on the bank {bank}, so what the decoder leaves open is as published"
    for asked in (["--protocol", "best"], ["--fitted", "true"]):
        code, _, errors = run("evaluate", *options, *asked)
        assert code == 0
        assert said in errors
        assert any(note.startswith(said) for note in json.loads(report.read_text())["notes"])
    for silent in ([], ["--protocol", "native"]):
        _, _, errors = run("evaluate", *options, *silent)
        assert said not in errors
        assert not any(said in note for note in json.loads(report.read_text())["notes"])


def test_protocol_in_a_file(run: Run, bank: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("summary: mine\nevaluate: {decoder: {k: 5}}\n")
    report = tmp_path / "report.json"
    options = ["--data.root", data, "--data.split", "val", "--protocol", tmp_path / "mine.yaml", "--json", report]
    assert run("evaluate", "--bank", bank, *options)[0] == 0
    assert json.loads(report.read_text())["settings"]["decoder"]["k"] == 5


@pytest.mark.parametrize("flat", [False, True])
def test_voc(run: Run, tiny_weights: Path, tmp_path: Path, flat: bool) -> None:
    voc_tree(tmp_path / "data", flat)
    options = ["--data.layout", "voc", "--data.root", tmp_path / "data"]
    size = ["--input.size", "null", "--bank.size", "null"]
    out = tmp_path / "bank"
    code, text, _ = run("build", "--out", out, *options, *size, *backbone_options(tiny_weights))
    assert code == 0
    assert "144 rows of 48 from 3 images" in text
    report = tmp_path / "report.json"
    assert run("evaluate", "--bank", out, *options, "--data.split", "val", "--json", report)[0] == 0
    values = json.loads(report.read_text())
    assert len(values["classes"]) == 21
    assert values["classes"][1]["name"] == "aeroplane"
    assert values["miou"] > 0.4
    code, _, errors = run("evaluate", "--bank", out, *options)
    assert code == 2
    assert "data.split is empty" in errors


def test_ade20k(run: Run, tiny_weights: Path, tmp_path: Path) -> None:
    ade20k_tree(tmp_path / "data")
    options = ["--data.layout", "ade20k", "--data.root", tmp_path / "data"]
    out = tmp_path / "bank"
    assert run("build", "--out", out, *options, "--input.size=null", *backbone_options(tiny_weights))[0] == 0
    report = tmp_path / "report.json"
    assert run("evaluate", "--bank", out, *options, "--data.split", "val", "--json", report)[0] == 0
    values = json.loads(report.read_text())
    seen = [row["name"] for row in values["classes"] if not row["absent"]]
    assert seen == ["wall", "building", "flag"]
    assert len(values["classes"]) == 150
    assert values["miou"] > 0.5


def write_recipe(path: Path, data: Path, weights: Path, extra: str = "") -> Path:
    path.write_text(
        f"""
build:
  out: {path.parent / "bank"}
  data: {{layout: folder, root: {data}, split: train}}
  backbone:
    name: tiny
    weights: {weights}
    model_args: {json.dumps(TINY)}
    mean: [0.5, 0.5, 0.5]
    std: [0.5, 0.5, 0.5]
    dtype: float32
  input: {{size: 40, keep_aspect: false}}
  bank: {{size: 30}}
  seed: 5
  {extra}
evaluate:
  bank: {path.parent / "bank"}
  data: {{layout: folder, root: {data}, split: val}}
  decoder: {{k: 7}}
segment:
  bank: {path.parent / "bank"}
  overlays:
    style: none
""",
        encoding="utf-8",
    )
    return path


def test_recipe_for_all_commands(run: Run, data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", data, tiny_weights)
    assert run("build", "--config", recipe)[0] == 0
    made = MemoryBank.open(tmp_path / "bank")
    assert (len(made), made.info.build["seed"], made.info.input.size) == (30, 5, 40)
    assert made.info.backbone.mean == HALF
    report = tmp_path / "report.json"
    assert run("evaluate", f"--config={recipe}", "--json", report)[0] == 0
    assert json.loads(report.read_text())["settings"]["decoder"] == asdict(DecoderConfig(k=7))
    arguments = [data / "val" / "images", "--config", recipe, "--out", tmp_path / "out", "--decoder.k=5"]
    assert run("segment", *arguments)[0] == 0
    assert not (tmp_path / "out" / "overlays").exists()


def test_the_nearer_setting_counts(run: Run, data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """A recipe's own settings beat the protocol it names; a protocol on the command line beats the recipe."""
    recipe = write_recipe(tmp_path / "recipe.yaml", data, tiny_weights, "protocol: fungi")
    arguments = ["--bank.size", 40, "--seed=6", "--input.fit=pad"]
    assert run("build", *arguments, "--config", recipe)[0] == 0
    info = MemoryBank.open(tmp_path / "bank").info
    assert (info.build["size"], info.build["seed"], info.input.fit) == (40, 6, "pad")
    assert (info.input.size, info.backbone.std) == (40, HALF)
    assert info.build["void"] == "background"
    assert info.build["protocol"] == "fungi"
    report = tmp_path / "report.json"
    arguments = ["--config", recipe, "--protocol", "dip", "--metric.absent", "zero", "--json", report]
    assert run("evaluate", *arguments)[0] == 0
    settings = json.loads(report.read_text())["settings"]
    assert settings["decoder"] == asdict(DecoderConfig(temperature=0.07))
    assert settings["metric"] == {"mask_size": "input", "matching": "none", "absent": "zero"}


def test_file_list(run: Run, data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "half.txt").write_text("train_2\ntrain_0.png\n")
    options = ["--data.root", data, "--data.split", "train", "--data.file_list", tmp_path / "half.txt"]
    code, out, _ = run(
        "build", "--out", tmp_path / "bank", *options, "--input.size=null", *backbone_options(tiny_weights)
    )
    assert code == 0
    assert "from 2 images" in out
    assert MemoryBank.open(tmp_path / "bank").info.sources == ("train_2", "train_0")


def test_dashes_are_underscores(run: Run, data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    options = [option.replace("model_args", "model-args") for option in backbone_options(tiny_weights)]
    more = ["--data.root", data, "--data.split", "train", "--load.batch-size=1", "--input.keep-aspect", "false"]
    assert run("build", "--out", tmp_path / "bank", *options, *more, "--input.size", 32, "--bank.size=9")[0] == 0
    assert MemoryBank.open(tmp_path / "bank").info.input.keep_aspect is False


def test_overwrite(run: Run, data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    options = ["--data.root", data, "--data.split", "train", "--input.size=null", *backbone_options(tiny_weights)]
    out = tmp_path / "bank"
    assert run("build", "--out", out, *options, "--bank.size=10")[0] == 0
    before = contents(tmp_path)
    code, _, err = run("build", "--out", out, *options, "--bank.size=20")
    assert code == 1
    assert f"{out}: there is a bank already" in err
    assert "--overwrite" in err
    assert contents(tmp_path) == before
    assert run("build", "--out", out, *options, "--bank.size=20", "--overwrite")[0] == 0
    assert len(MemoryBank.open(out)) == 20
    assert len(contents(tmp_path)) == len(before)


def test_a_taken_folder_is_told_before_images_are_looked_for(
    rejects: Rejects, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(bank.parent))
    options = ["--out", f"~/{bank.name}", "--data.root=nowhere", "--data.split=train"]
    rejects([f"{bank}: there is a bank already", "--overwrite"], "build", *options)


# Mistakes


@pytest.fixture
def rejects(run: Run, tmp_path: Path) -> Callable[..., None]:
    """Run a command that must fail, say why, and leave everything as it was."""

    def check(messages: list[str], *arguments: object) -> None:
        before = contents(tmp_path)
        code, _, err = run(*arguments)
        assert code in (1, 2)
        assert "error: " in err
        for message in messages:
            assert message in err
        assert contents(tmp_path) == before

    return check


Rejects = Callable[..., None]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A tree of one's own to break: two training images, one validation image."""
    return folder_tree(tmp_path / "data", train=2, val=1)


def build_of(root: Path, weights: Path, out: Path) -> list[object]:
    data = ["--data.root", root, "--data.split", "train", "--input.size", "null"]
    return ["build", "--out", out, *data, *backbone_options(weights)]


def no_root(root: Path) -> list[str]:
    shutil.rmtree(root)
    return [str(root), "no such folder"]


def no_images_folder(root: Path) -> list[str]:
    shutil.rmtree(root / "train" / "images")
    return [str(root / "train" / "images"), "is not a folder"]


def empty_folders(root: Path) -> list[str]:
    for kind in ("images", "masks"):
        for path in (root / "train" / kind).iterdir():
            path.unlink()
    return [str(root / "train"), "no image with a mask was found"]


def no_class_list(root: Path) -> list[str]:
    (root / "classes.txt").unlink()
    return ["no classes.txt", str(root)]


def image_without_mask(root: Path) -> list[str]:
    (root / "train" / "masks" / "train_1.png").unlink()
    return ["1 of 2 entries", "train_1.png: image without mask", "--skip-bad"]


def mask_without_image(root: Path) -> list[str]:
    (root / "train" / "images" / "train_1.png").unlink()
    return ["1 of 2 entries", "train_1.png: mask without image", "--skip-bad"]


def truncated_jpeg(root: Path) -> list[str]:
    png = root / "train" / "images" / "train_1.png"
    Image.fromarray(scene(1)[0]).save(png.with_suffix(".jpg"))
    png.unlink()
    data = png.with_suffix(".jpg").read_bytes()
    png.with_suffix(".jpg").write_bytes(data[: len(data) * 2 // 3])
    return ["train_1.jpg: can't be read as an image", "--skip-bad"]


def rgb_mask(root: Path) -> list[str]:
    Image.fromarray(scene(1)[0]).save(root / "train" / "masks" / "train_1.png")
    return ["train_1.png: the mask is a RGB image; an index mask is expected", "--skip-bad"]


def mask_of_another_size(root: Path) -> list[str]:
    Image.fromarray(np.zeros((48, 63), np.uint8)).save(root / "train" / "masks" / "train_1.png")
    return ["train_1.png: the mask is 48×63", "48×64", "--skip-bad"]


def class_id_outside(root: Path) -> list[str]:
    mask = scene(1)[1]
    mask[30, 30:33] = 9
    Image.fromarray(mask).save(root / "train" / "masks" / "train_1.png")
    return ["train_1.png: class ids outside the 3 known classes: 9 (3 pixels)", "classes.txt", "--skip-bad"]


def tiny_image(root: Path) -> list[str]:
    Image.fromarray(scene(1)[0][:5]).save(root / "train" / "images" / "train_1.png")
    Image.fromarray(scene(1)[1][:5]).save(root / "train" / "masks" / "train_1.png")
    return ["train_1.png: the image is 5×64", "smaller than a patch of 8×8", "--skip-bad"]


SINGLE = [image_without_mask, mask_without_image, truncated_jpeg, rgb_mask, mask_of_another_size, class_id_outside]
SINGLE.append(tiny_image)
Damage = Callable[[Path], list[str]]


@pytest.mark.parametrize("damage", [no_root, no_images_folder, empty_folders, no_class_list, *SINGLE])
def test_build_from_bad_data(
    rejects: Rejects, broken: Path, tiny_weights: Path, tmp_path: Path, damage: Damage
) -> None:
    rejects(damage(broken), *build_of(broken, tiny_weights, tmp_path / "bank"))


@pytest.mark.parametrize("damage", [no_root, no_images_folder, empty_folders, no_class_list, *SINGLE])
def test_evaluate_on_bad_data(rejects: Rejects, broken: Path, bank: Path, tmp_path: Path, damage: Damage) -> None:
    report = tmp_path / "report.json"
    rejects(damage(broken), "evaluate", "--bank", bank, "--data.root", broken, "--data.split=train", "--json", report)


@pytest.mark.parametrize("damage", SINGLE)
def test_skip_bad(run: Run, broken: Path, tiny_weights: Path, tmp_path: Path, damage: Damage) -> None:
    """Build and evaluation go on without the bad sample, and tell it."""
    named = next(part for part in damage(broken)[0:2] if "train_1" in part).partition(":")[0]
    out, report = tmp_path / "bank", tmp_path / "report.json"
    code, text, err = run(*build_of(broken, tiny_weights, out), "--skip-bad")
    assert code == 0
    assert "skipped 1:" in err
    assert named in err
    assert "from 1 images" in text
    assert len(MemoryBank.open(out).info.build["skipped"]) == 1
    options = ["--data.root", broken, "--data.split", "train", "--skip_bad", "true", "--json", report]
    code, _, err = run("evaluate", "--bank", out, *options)
    assert code == 0
    assert "skipped 1:" in err
    assert named in err
    values = json.loads(report.read_text())
    assert values["images"] == 1
    assert named in values["skipped"][0]


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--bank.siz=5"], ["unknown option --bank.siz", "did you mean '--bank.size'"]),
        (["--overwrit"], ["unknown option --overwrit", "did you mean '--overwrite'"]),
        (["--bank.size=many"], ["bank.size", "many"]),
        (["--bank.size=0"], ["bank.size is 0"]),
        (["--bank.epochs=2"], ["bank.epochs is 2 without augmentation"]),
        (["--bank.void=keep"], ["bank.void is 'keep'"]),
        (["--features.kind=fungus"], ["features.kind is 'fungus'", "did you mean 'fungi'"]),
        (["--features.temperature=0"], ["features.temperature is 0"]),
        (["--input.fit=crop"], ["input.fit is 'crop'"]),
        (["--input.size=[1, 2, 3]"], ["input.size"]),
        (["--data.layout=vocc"], ["data.layout is 'vocc'", "did you mean 'voc'"]),
        (["--data.split=test"], ["test"]),
        (["--data.void=-1"], ["data.void is -1"]),
        (["--data.file_list=nowhere.txt"], ["nowhere.txt"]),
        (["--backbone.dtype=float16"], ["backbone.dtype is 'float16'", "bfloat16"]),
        (["--backbone.device=cuda:77"], ["cuda:77"]),
        (["--backbone.weights=nowhere.safetensors"], ["nowhere.safetensors", "no such file"]),
        (["--backbone.weights=null"], ["backbone.weights is empty"]),
        (["--backbone.model_args={patch: 8}"], ["backbone.model_args"]),
        (["--protocol=humingbird"], ["protocol is 'humingbird'"]),
        (["--config=nowhere.yaml"], ["nowhere.yaml"]),
        (["--load.batch_size=0"], ["load.batch_size is 0"]),
        (["--seed=-1"], ["seed"]),
        (["stray"], ["stray"]),
        (["--seed"], ["seed"]),
    ],
)
def test_bad_build_options(
    rejects: Rejects, data: Path, tiny_weights: Path, tmp_path: Path, arguments: list[str], messages: list[str]
) -> None:
    rejects(messages, *build_of(data, tiny_weights, tmp_path / "bank"), *arguments)


def test_unknown_timm_name(rejects: Rejects, data: Path, tmp_path: Path) -> None:
    options = ["--data.root", data, "--data.split", "train", "--backbone.name=vit_smal_patch16_224.dino"]
    rejects(["vit_smal_patch16_224.dino", "did you mean"], "build", "--out", tmp_path / "bank", *options)


def test_weights_of_another_model(rejects: Rejects, data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    arguments = json.dumps(TINY | {"depth": 3})
    options = build_of(data, tiny_weights, tmp_path / "bank")
    rejects(["tiny.safetensors: the weights"], *options, f"--backbone.model_args={arguments}")


def test_damaged_weights(rejects: Rejects, data: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x10" * 50)
    rejects(
        ["cut.safetensors: can't be read as weights"], *build_of(data, tmp_path / "cut.safetensors", tmp_path / "bank")
    )


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--decoder.k=193"], ["decoder.k is 193", "192 rows"]),
        (["--decoder.k=0"], ["decoder.k is 0"]),
        (["--decoder.k=a"], ["decoder.k"]),
        (["--decoder.temperature=0"], ["decoder.temperature is 0"]),
        (["--decoder.tau=1"], ["unknown option --decoder.tau"]),
        (["--metric.matching=hungary"], ["metric.matching is 'hungary'", "did you mean 'hungarian'"]),
        (["--index.kind=IFV4,Flat"], ["index.kind is 'IFV4,Flat'"]),
        (["--index.device=tpu"], ["index.device is 'tpu'"]),
        (["--protocol=natve"], ["protocol is 'natve'", "did you mean 'native'"]),
        (["--backbone.weights=nowhere.pth"], ["nowhere.pth", "no such file"]),
        (["--backbone.dtype=half"], ["backbone.dtype is 'half'"]),
        (["--bank=nowhere"], ["nowhere: no memory bank there"]),
    ],
)
def test_bad_evaluate_options(
    rejects: Rejects, data: Path, bank: Path, tmp_path: Path, arguments: list[str], messages: list[str]
) -> None:
    options = ["--data.root", data, "--data.split", "val", "--json", tmp_path / "report.json"]
    rejects(messages, "evaluate", "--bank", bank, *options, *arguments)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("build: {bank: {sise: 3}}", ["recipe.yaml", "'bank.sise'", "did you mean 'bank.size'"]),
        ("build: {bnk: {size: 3}}", ["recipe.yaml", "unknown key 'bnk'"]),
        ("build: {decoder: {k: 3}}", ["recipe.yaml", "unknown key 'decoder'"]),
        ("bild: {seed: 3}", ["recipe.yaml", "unknown section 'bild'", "did you mean 'build'"]),
        ("build: {seed: x}", ["seed"]),
        ("build: {seed: [", ["recipe.yaml", "can't be read"]),
        ("build: 5", ["recipe.yaml", "build"]),
        ("- build", ["recipe.yaml", "must hold sections"]),
        ("build: {protocol: nativ}", ["protocol is 'nativ'"]),
    ],
)
def test_bad_recipes(
    rejects: Rejects, data: Path, tiny_weights: Path, tmp_path: Path, text: str, messages: list[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    rejects(messages, *build_of(data, tiny_weights, tmp_path / "bank"), "--config", tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("command", "message"),
    [("bild", "did you mean 'build'"), ("zzz", "commands: plan, build, segment, serve, evaluate, explain")],
)
def test_unknown_command(rejects: Rejects, command: str, message: str) -> None:
    rejects([f"no command {command!r}", message], command)


@pytest.mark.parametrize(
    ("command", "option"), [("build", "out"), ("segment", "bank"), ("evaluate", "bank"), ("bank inspect", "bank")]
)
def test_missing_options(rejects: Rejects, command: str, option: str) -> None:
    rejects([option], *command.split())


@pytest.mark.parametrize("command", ["segment", "evaluate"])
def test_another_backbone(rejects: Rejects, bank: Path, data: Path, tmp_path: Path, command: str) -> None:
    torch.manual_seed(8)
    torch.save(VisionTransformer(**TINY).state_dict(), tmp_path / "other.pth")
    fingerprint = MemoryBank.open(bank).info.fingerprint[:12]
    options = {
        "segment": [data / "val", "--out", tmp_path / "out"],
        "evaluate": ["--data.root", data, "--data.split", "val", "--json", tmp_path / "report.json"],
    }
    messages = ["built with another backbone", fingerprint]
    rejects(messages, command, *options[command], "--bank", bank, "--backbone.weights", tmp_path / "other.pth")


@pytest.mark.parametrize("command", ["segment", "evaluate", "bank inspect"])
def test_damaged_bank(rejects: Rejects, bank: Path, data: Path, tmp_path: Path, command: str) -> None:
    shutil.copytree(bank, tmp_path / "bank")
    shard = next((tmp_path / "bank").glob("keys-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    options: dict[str, list[Any]] = {
        "segment": [data / "val", "--out", tmp_path / "out"],
        "evaluate": ["--data.root", data, "--data.split", "val", "--json", tmp_path / "report.json"],
        "bank inspect": [],
    }
    rejects([f"{shard}: damaged or cut off"], *command.split(), *options[command], "--bank", tmp_path / "bank")


def test_a_file_where_the_bank_should_go(rejects: Rejects, data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    rejects([str(tmp_path / "file")], *build_of(data, tiny_weights, tmp_path / "file"))
    rejects([str(tmp_path / "file")], *build_of(data, tiny_weights, tmp_path / "file" / "bank"))


def test_a_folder_of_something_else_where_the_bank_should_go(
    rejects: Rejects, data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    options = build_of(data, tiny_weights, tmp_path / "notes")
    rejects(["there is something else already"], *options)
    rejects(["there is something else already"], *options, "--overwrite")


def test_evaluation_with_other_classes(rejects: Rejects, bank: Path, broken: Path) -> None:
    (broken / "classes.txt").write_text("background\nred\ngreen\nblue\n")
    options = ["--bank", bank, "--data.root", broken, "--data.split", "val"]
    rejects(["the bank has 3 classes, the data set 4"], "evaluate", *options)


@pytest.mark.parametrize("file", ["--json", "--markdown"])
def test_report_that_cannot_be_written(rejects: Rejects, bank: Path, data: Path, tmp_path: Path, file: str) -> None:
    (tmp_path / "file").write_text("mine")
    options = ["--data.root", data, "--data.split", "val", file, tmp_path / "file" / "report"]
    rejects([str(tmp_path / "file" / "report"), "can't be written"], "evaluate", "--bank", bank, *options)


# Mistakes in segment


def test_unknown_format_of_masks(rejects: Rejects, bank: Path, data: Path, tmp_path: Path) -> None:
    options = ["--bank", bank, "--out", tmp_path / "out", "--masks.format", "gif"]
    rejects(["masks.format is 'gif'; it must be one of auto, png, tiff, palette"], "segment", data, *options)


def test_nothing_to_segment(rejects: Rejects, bank: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("mine")
    for pattern in (tmp_path / "empty", tmp_path / "*.jpg", tmp_path / "gone.png"):
        rejects([str(pattern)], "segment", pattern, "--bank", bank, "--out", tmp_path / "out")


def test_two_images_of_one_name(rejects: Rejects, bank: Path, tmp_path: Path) -> None:
    for folder, suffix in (("a", "png"), ("b", "png"), ("a", "jpg")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(scene(1)[0]).save(tmp_path / folder / f"photo.{suffix}")
    options = ["--bank", bank, "--out", tmp_path / "out"]
    files = [tmp_path / "a" / "photo.png", tmp_path / "b" / "photo.png"]
    rejects([*map(str, files), "would both be written as 'photo'"], "segment", *files, *options)
    rejects(["a/photo.jpg", "a/photo.png", "'photo'"], "segment", tmp_path / "a", *options)


def test_same_image_twice_is_segmented_once(tmp_path: Path) -> None:
    Image.fromarray(scene(1)[0]).save(tmp_path / "photo.png")
    found = find_images([str(tmp_path), str(tmp_path / "photo.png"), str(tmp_path / "*.png")])
    assert found == {"photo": tmp_path / "photo.png"}


def bad_photos(folder: Path) -> Path:
    """One sound image between a cut off and a too small one."""
    folder.mkdir()
    for i, name in enumerate("abc"):
        Image.fromarray(scene(i)[0]).save(folder / f"{name}.png")
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:200])
    Image.fromarray(scene(2)[0][:3]).save(folder / "c.png")
    return folder


def test_bad_images_stop_segment(rejects: Rejects, bank: Path, tmp_path: Path) -> None:
    folder = bad_photos(tmp_path / "in")
    options = ["--bank", bank, "--out", tmp_path / "out"]
    rejects(["a.png: can't be read as an image", "--skip-bad"], "segment", folder, *options)
    rejects(["c.png", "the image is 3×64", "smaller than a patch"], "segment", folder / "c.png", *options)


def test_segment_passes_over_bad_images(run: Run, rejects: Rejects, bank: Path, tmp_path: Path) -> None:
    folder = bad_photos(tmp_path / "in")
    code, out, err = run("segment", folder, "--bank", bank, "--out", tmp_path / "out", "--skip-bad")
    assert code == 0
    assert "1 images segmented" in out
    assert "skipped 2:" in err
    assert "a.png" in err
    assert "c.png" in err
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["b.png"]
    options = ["--bank", bank, "--out", tmp_path / "nothing", "--skip-bad"]
    rejects(["no image could be segmented"], "segment", folder / "a.png", *options)


def test_results_that_cannot_be_written(rejects: Rejects, bank: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    options = ["--bank", bank, "--out", tmp_path / "file" / "out"]
    rejects(["can't be written", str(tmp_path / "file")], "segment", data / "val" / "images", *options)


# The tools, as people start them


def test_tools_end_to_end(data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", data, tiny_weights)

    def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(TOOLS / name), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)

    built = tool("build_bank.py", recipe, "--bank.size", "40")
    assert built.returncode == 0, built.stderr
    assert "40 rows of 48 from 4 images" in built.stdout
    assert all(line.startswith("memory bank: ") for line in built.stderr.splitlines())
    segmented = tool("segment.py", recipe, data / "val" / "images", "--out", "out", "--decoder.k", "3")
    assert segmented.returncode == 0, segmented.stderr
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 2
    evaluated = tool("evaluate.py", recipe, "--json", "report.json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "mIoU" in evaluated.stdout
    assert json.loads((tmp_path / "report.json").read_text())["images"] == 2


def test_images_behind_links_count_and_others_are_told(run: Run, bank: Path, tmp_path: Path) -> None:
    folder, store = tmp_path / "in", tmp_path / "store"
    for place in (folder, store):
        place.mkdir()
        Image.fromarray(scene(1)[0]).save(place / "a.png")
        Image.fromarray(scene(1)[0]).save(place / "b.jfif", "JPEG")
        for name in ("c.heic", "d.HEIC", "e.nef", ".hidden.heic", "notes.txt"):
            (place / name).write_bytes(b"x")
    (folder / "linked").symlink_to(store)
    (folder / "circle").symlink_to(folder)
    code, _, err = run("segment", folder, "--bank", bank, "--out", tmp_path / "out", "--overlays.style", "none")
    assert code == 0
    assert "6 files left out: 4 .heic, 2 .nef; convert them to JPEG or PNG to have them read\n" in err
    found = {path.relative_to(tmp_path / "out" / "masks").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    assert found == {"a.png", "b.png", "linked/a.png", "linked/b.png"}


def test_folders_of_other_images_alone(rejects: Rejects, bank: Path, tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"x")
    options = ["--bank", bank, "--out", tmp_path / "out"]
    for pattern in (tmp_path, tmp_path / "*"):
        rejects(["no such image", "1 files left out: 1 .heic; convert them"], "segment", pattern, *options)
    words = ["a.heic: can't be read as an image", "no format that is read; convert it to JPEG or PNG"]
    rejects(words, "segment", tmp_path / "a.heic", *options)


def test_patterns_find_images_alone(data: Path) -> None:
    folder = data / "val" / "images"
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "deeper.png").mkdir()
    assert set(find_images([str(folder / "*")])) == set(find_images([str(folder)])) == {"val_0", "val_1"}


def test_results_are_not_segmented(tmp_path: Path) -> None:
    """Where they lie within the folder of the images, and where they lie beside them."""
    (tmp_path / "photos" / "out" / "masks").mkdir(parents=True)
    (tmp_path / "photos" / "overlays").mkdir()
    for file in ("a.png", "out/masks/a.png", "out/b.png", "overlays/c.png"):
        Image.fromarray(scene(0)[0]).save(tmp_path / "photos" / file)
    found = find_images([str(tmp_path / "photos")], out=tmp_path / "photos" / "out")
    assert list(found) == ["a", "out/b", "overlays/c"]
    assert list(find_images([str(tmp_path / "photos")], out=tmp_path / "photos")) == ["a", "out/b", "out/masks/a"]


def test_results_of_other_runs_in_a_searched_folder_are_left_out_with_a_remark(tmp_path: Path) -> None:
    photos, run = tmp_path / "photos", tmp_path / "photos" / "run"
    for file in ("a.png", "masks/d.png", "run/b.png", "run/masks/c.png", "run/report/images/a.jpg"):
        (photos / file).parent.mkdir(parents=True, exist_ok=True)
        (photos / file).touch()
    (run / "run.jsonl").touch()
    for pattern, names, count in (
        (photos, ["a", "masks/d", "run/b"], 2),
        (run, ["b"], 2),
        (photos / "**" / "*.png", ["a", "d", "b"], 1),
        (run / "masks", ["c"], 0),  # where it is named, it is meant
    ):
        remarks: list[str] = []
        assert list(find_images([str(pattern)], remarks, tmp_path / "out")) == names
        assert [f"{count} files left out: " in line and f"segment wrote to {run};" in line for line in remarks] == (
            [True] if count else []
        )
    with pytest.raises(DataError, match=r"no such image.*1 files left out.*name their own folder"):
        find_images([str(run / "m*" / "*.png")])
