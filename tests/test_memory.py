"""Images that memory doesn't suffice for are refused before any work, by name, by every command alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HALF, TINY
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from trees import class_tree, folder_tree, save_palette, scene

from fungi_seg import (
    Backbone,
    BackboneConfig,
    BankConfig,
    BankRecipe,
    DataConfig,
    DataError,
    FeatureConfig,
    FungiSegError,
    ImageFeatureConfig,
    ImageFeatures,
    InputConfig,
    PatchFeatures,
    Segmenter,
    open_dataset,
)
from fungi_seg.bank.room import needs_of, survey
from fungi_seg.cli import main
from fungi_seg.features import memory
from fungi_seg.features.contrast import CHUNK_VALUES
from fungi_seg.features.memory import image_memory, patch_memory
from fungi_seg.images.settings import LoadConfig

NEEDED = r"64×3200 \(height×width\), 3200 patches, whose features need (9\.39|10\.9) MB of memory, and 5 MB are free"
WAY_OUT = "give a smaller input.size, or input.keep_aspect false"


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how much memory is free, in MB."""

    def set_free(size: float) -> None:
        monkeypatch.setattr(memory, "free_memory", lambda: int(size * 10**6))

    return set_free


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of all that goes through the backbone."""
    done: list[tuple[int, ...]] = []
    tokens = Backbone.tokens

    def counted(self: Backbone, images: torch.Tensor) -> torch.Tensor:
        done.append(tuple(images.shape))
        return tokens(self, images)

    monkeypatch.setattr(Backbone, "tokens", counted)
    return done


def strip(path: Path, height: int = 4, width: int = 200) -> Path:
    """A line scan: at an input size of 64 it has 3200 patches of 8×8."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


def add_strip(tree: Path, split: str) -> None:
    """A strip and its mask among the images of a split, after the others."""
    strip(tree / split / "images" / "zz_strip.png")
    save_palette(np.zeros((4, 200), np.uint8), tree / split / "masks" / "zz_strip.png")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return folder_tree(tmp_path / "tree")


@pytest.fixture
def bank(tree: Path, tiny_weights: Path, tmp_path: Path) -> Path:
    """Of the four images of `tree`, at an input size of 64."""
    assert main(["build", "--data.root", str(tree), *build_options(tiny_weights, tmp_path / "bank")]) == 0
    return tmp_path / "bank"


def build_options(weights: Path, out: Path) -> list[str]:
    settings = {"name": "tiny", "weights": weights, "model_args": json.dumps(TINY), "dtype": "float32"}
    settings |= {"mean": list(HALF), "std": list(HALF)}
    backbone = [f"--backbone.{name}={value}" for name, value in settings.items()]
    return ["--data.split=train", "--input.size=64", "--out", str(out), *backbone]


def test_what_a_strip_needs_at_the_default_size(tiny_backbone: Backbone, free: Callable[[float], None]) -> None:
    """500×20 pixels become 12 800×512: 64 × 1600 patches."""
    free(100)
    with pytest.raises(DataError, match=r"enters as 512×12800 \(height×width\), 102400 patches, .* need 2\d\d MB"):
        PatchFeatures(tiny_backbone).fit_image(np.zeros((20, 500, 3), np.uint8), InputConfig())


def test_nothing_is_resized_for_it(tiny_backbone: Backbone, free: Callable[[float], None]) -> None:
    """3 TB of pixels."""
    free(1000)
    with pytest.raises(DataError, match="enters as 512×"):
        PatchFeatures(tiny_backbone, FeatureConfig(kind="plain")).fit_image(
            np.zeros((1, 4_000_000, 3), np.uint8), InputConfig()
        )


@pytest.mark.parametrize("fit", ["resize", "pad"])
def test_images_that_fit_are_taken(tiny_backbone: Backbone, free: Callable[[float], None], fit: str) -> None:
    features, image, config = PatchFeatures(tiny_backbone), scene(0)[0], InputConfig(60, fit=fit)
    free(10)
    fitted = features.fit_image(image, config)
    needed = patch_memory(tiny_backbone, features.config, fitted.image[0].numel() // 64)
    assert needed < 10**7
    free(0)
    with pytest.raises(DataError, match=WAY_OUT):
        features.fit_image(image, config)


def test_predict_and_explain_refuse_by_name(
    bank: Path, free: Callable[[float], None], work: list[Any], tmp_path: Path
) -> None:
    path, segmenter = strip(tmp_path / "strip.png"), Segmenter(bank, device="cpu")
    free(5)
    for ask in (lambda: segmenter.predict(path), lambda: segmenter.explain(path, at=(1, 1))):
        with pytest.raises(DataError, match=rf"the image enters as {NEEDED}: {WAY_OUT}"):
            ask()
    assert work == []


def test_segment(bank: Path, free: Callable[[float], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    strip(folder / "a_strip.png")
    Image.fromarray(scene(5)[0]).save(folder / "b.png")
    free(5)
    arguments = ["segment", str(folder), "--bank", str(bank), "--out", str(tmp_path / "out"), "--overlays.style=none"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert f"error: {folder / 'a_strip.png'}: the image enters as 64×3200" in error
    assert "--skip-bad" in error
    assert main([*arguments, "--skip-bad"]) == 0
    assert f"skipped 1:\n  {folder / 'a_strip.png'}: the image enters as" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["b.png"]


def test_explain(bank: Path, free: Callable[[float], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = strip(tmp_path / "strip.png")
    free(5)
    assert main(["explain", str(path), "--bank", str(bank), "--out", str(tmp_path / "why"), "--at=1,1"]) == 1
    assert f"error: {path}: the image enters as 64×3200" in capsys.readouterr().err


def test_evaluate(
    bank: Path, tree: Path, free: Callable[[float], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_strip(tree, "val")
    free(5)
    arguments = ["evaluate", "--bank", str(bank), "--data.root", str(tree), "--data.split=val"]
    assert main(arguments) == 1
    assert "zz_strip.png: the image enters as 64×3200" in capsys.readouterr().err
    assert main([*arguments, "--skip-bad", "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["images"] == 2
    assert "zz_strip.png: the image enters as 64×3200" in report["skipped"][0]


def test_build(
    tree: Path, tiny_weights: Path, free: Callable[[float], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a build looks at before it starts is another matter: it sees some of many images."""
    add_strip(tree, "train")
    free(5)
    arguments = ["build", "--data.root", str(tree), *build_options(tiny_weights, tmp_path / "bank")]
    assert main(arguments) == 1
    assert "zz_strip.png: the image enters as 64×3200" in capsys.readouterr().err
    assert main([*arguments, "--skip-bad"]) == 0
    assert "zz_strip.png: the image enters as 64×3200" in capsys.readouterr().err


def test_a_batch_of_images_of_which_each_would_fit(
    tiny_backbone: Backbone, free: Callable[[float], None], work: list[Any]
) -> None:
    features = PatchFeatures(tiny_backbone)
    images = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    free(0.5)
    with pytest.raises(DataError, match=r"a, b, c, d: 4 images at once enter as 64×64.*a smaller load.batch_size"):
        features(images, ["a", "b", "c", "d"])
    assert work == []
    free(1)
    assert features(images).shape == (4, 64, 48)


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory\nframe #0"),
        MemoryError("no room"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_out_of_memory_in_the_middle_names_the_images(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(Backbone, "tokens", fail)
    with pytest.raises(DataError, match=r"a\.png: out of memory while features of \[1, 3, 8, 8\].*input\.size") as told:
        PatchFeatures(tiny_backbone)(torch.zeros(1, 3, 8, 8), ["a.png"])
    assert "frame" not in str(told.value)
    monkeypatch.setattr(Backbone, "tokens", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes don't fit")))
    with pytest.raises(RuntimeError, match="shapes don't fit"):
        PatchFeatures(tiny_backbone)(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("DefaultCPUAllocator: can't allocate memory\nframe #0"), torch.cuda.OutOfMemoryError("CUDA")],
)
def test_the_command_line_tells_it_in_a_line(
    bank: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failure: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr("fungi_seg.bank.bank.MemoryBank.class_rows", fail)
    capsys.readouterr()
    assert main(["bank", "inspect", "--bank", str(bank)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: out of memory ({type(failure).__name__}: ")
    assert error.count("\n") == 1


def test_other_errors_of_the_command_line_are_not_hidden(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("fungi_seg.bank.bank.MemoryBank.class_rows", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(["bank", "inspect", "--bank", str(bank)])


def test_whole_images(tiny_backbone: Backbone, free: Callable[[float], None], work: list[Any]) -> None:
    features = ImageFeatures(tiny_backbone, ImageFeatureConfig(("kl",), side=512))
    free(1)
    with pytest.raises(FungiSegError, match=r"features\.side is 512, 4096 patches a view, .*2 images of up to 1 views"):
        features([scene(0)[0], scene(1)[0]])
    assert work == []
    assert ImageFeatures(tiny_backbone, ImageFeatureConfig(("kl",), side=16))([scene(0)[0]]).shape == (1, 48)


def test_whole_images_are_refused_before_anything_is_extracted(
    tiny_weights: Path, free: Callable[[float], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = class_tree(tmp_path / "pictures")
    free(1)
    options = [option for option in build_options(tiny_weights, tmp_path / "out") if option.startswith("--backbone")]
    arguments = ["extract", "--data.root", str(root), "--out", str(tmp_path / "out"), *options]
    assert main([*arguments, "--features.side=512", "--features.objectives=[kl]"]) == 1
    assert "error: features.side is 512" in capsys.readouterr().err
    assert not [*(tmp_path / "out").glob("train-*")]


# The formula


def test_one_formula_serves_the_plan_and_the_refusal(tree: Path, tiny_backbone: Backbone) -> None:
    data, load = open_dataset(DataConfig(root=str(tree), split="train")), LoadConfig()
    bank = BankConfig(size=10)
    recipe = BankRecipe(input=InputConfig(None), bank=bank)
    for features in (FeatureConfig(), FeatureConfig(kind="plain"), FeatureConfig(negatives=2, support_size=10)):
        needs = {patches: needs_of(survey_of(data, recipe, patches), tiny_backbone, features)(bank, load)
                 for patches in (100, 200)}  # fmt: skip
        told = needs[200].build_memory - needs[100].build_memory
        formula = [patch_memory(tiny_backbone, features, patches, load.batch_size) for patches in (100, 200)]
        assert told == formula[1] - formula[0]


def survey_of(data: Any, recipe: BankRecipe, patches: int) -> Any:
    return replace(survey(data, recipe, (8, 8)), largest=patches)


def test_what_the_formula_counts(tiny_backbone: Backbone) -> None:
    """Tokens, and similarities a chunk at a time: nothing grows with the square of the patches."""
    plain, fungi = FeatureConfig(kind="plain"), FeatureConfig()
    with_negatives = FeatureConfig(negatives=2, keep_negatives=0.5)  # as many negatives as patches
    token, chunk = 1000 * tiny_backbone.dim, 4 * CHUNK_VALUES
    assert patch_memory(tiny_backbone, plain, 1000) == 100 * token
    assert patch_memory(tiny_backbone, fungi, 1000) == 115 * token + chunk
    assert patch_memory(tiny_backbone, fungi, 10_000) == 1150 * token + chunk
    assert patch_memory(tiny_backbone, fungi, 10) == 115 * token // 100 + 4 * 10**2
    assert patch_memory(tiny_backbone, with_negatives, 1000) == 123 * token + 2 * chunk
    assert patch_memory(tiny_backbone, plain, 1000, 3) == 3 * patch_memory(tiny_backbone, plain, 1000)


def test_a_gpu_has_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone(VisionTransformer(**TINY), _config(), torch.device("cpu"), torch.float32)
    monkeypatch.setattr(backbone, "device", torch.device("cuda"))
    assert patch_memory(backbone, FeatureConfig(), 10**6) == image_memory(backbone, 10**6, 1, 1, 1) == 0


def test_views_of_a_model_that_averages_take_more(tiny_backbone: Backbone) -> None:
    averaging = VisionTransformer(**TINY, class_token=False, global_pool="avg")
    other = Backbone(averaging, _config(), torch.device("cpu"), torch.float32)
    assert image_memory(tiny_backbone, 16, 10, 12, 4) == (10 * 16 + 4 * 12) * 24 * 100
    assert image_memory(other, 16, 10, 12, 4) == (10 * 16 + 4 * 12 * 16) * 24 * 100


def _config() -> BackboneConfig:
    return BackboneConfig(mean=HALF, std=HALF)
