"""The hand-made descriptor, held against loops over pixels, and its life as a backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from trees import folder_tree

from fungi_seg import (
    BankConfig,
    BankRecipe,
    DataConfig,
    FeatureConfig,
    FungiSegError,
    InputConfig,
    MemoryBank,
    PatchFeatures,
    Segmenter,
    build_bank,
    load_backbone,
    open_dataset,
)
from fungi_seg.features.descriptor import DEVIATION, MEAN, patch_statistics
from fungi_seg.pretraining.scenes import scene

SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8


def slopes(grey: np.ndarray) -> np.ndarray:
    """Gradient magnitude `[H, W]`, pixel by pixel; the border pixel is repeated beyond it."""
    height, width = grey.shape
    found = np.zeros_like(grey)
    for y in range(height):
        for x in range(width):
            rows, columns = np.clip([y - 1, y, y + 1], 0, height - 1), np.clip([x - 1, x, x + 1], 0, width - 1)
            around = grey[np.ix_(rows, columns)]
            found[y, x] = np.hypot((around * SOBEL).sum(), (around * SOBEL.T).sum())
    return found


def naive(image: np.ndarray, patch: int) -> np.ndarray:
    """`[h, w, 24]` of `[H, W, 3]` float64: the pixels of every window are gathered, patches at the border repeated."""
    channels = np.dstack([image, slopes(image.mean(2))])
    h, w = image.shape[0] // patch, image.shape[1] // patch
    patches = channels.reshape(h, patch, w, patch, 4).transpose(0, 2, 1, 3, 4)
    result = np.zeros((h, w, 24))
    for row in range(h):
        for column in range(w):
            parts = []
            for reach in (0, 1, 4):
                rows = np.clip(np.arange(row - reach, row + reach + 1), 0, h - 1)
                columns = np.clip(np.arange(column - reach, column + reach + 1), 0, w - 1)
                pixels = patches[np.ix_(rows, columns)].reshape(-1, 4)
                parts += [pixels.mean(0), pixels.std(0)]
            result[row, column] = np.concatenate(parts)
    return result


def tensor_of(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize(("h", "w", "patch"), [(5, 11, 8), (1, 1, 8), (12, 3, 4)])
def test_description_is_the_naive_one(h: int, w: int, patch: int) -> None:
    images = np.random.default_rng(0).random((2, h * patch, w * patch, 3)) ** 2
    found = patch_statistics(torch.cat([tensor_of(image) for image in images]), patch)
    assert (found.shape, found.dtype) == ((2, h, w, 24), torch.float32)
    for image, numbers in zip(images, found, strict=True):
        np.testing.assert_allclose(numbers.numpy(), naive(image, patch), atol=2e-5)


def test_description_of_a_scene() -> None:
    """Real contrasts and flat places, where the deviation is a small difference of large numbers."""
    image = scene(3, 0, 64, 96)[0] / 255
    np.testing.assert_allclose(patch_statistics(tensor_of(image))[0].numpy(), naive(image, 8), atol=1e-3)


def test_a_plain_image_has_no_deviation() -> None:
    numbers = patch_statistics(torch.full((1, 3, 16, 24), 0.25)).reshape(-1, 3, 2, 4)
    expected = torch.tensor([[0.25, 0.25, 0.25, 0], [0, 0, 0, 0]]).expand(6, 3, 2, 4)
    torch.testing.assert_close(numbers, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_it_is_a_backbone(dtype: str) -> None:
    """Standardised tokens of a patch each, in float32 whatever the arithmetic asked for."""
    backbone = load_backbone("descriptor", device="cpu", dtype=dtype)
    assert (backbone.patch_size, backbone.prefix_tokens, backbone.dim) == ((8, 8), 0, 24)
    images = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(1))
    tokens = backbone.tokens(images)
    assert (tokens.shape, tokens.dtype) == ((2, 15, 24), torch.float32)
    wanted = (patch_statistics(images) - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    torch.testing.assert_close(tokens, wanted.flatten(1, 2))
    features = PatchFeatures(backbone, FeatureConfig(kind="plain"))
    assert features.dim == 24
    torch.testing.assert_close(features(images), torch.nn.functional.normalize(tokens, dim=-1))


def test_patches_are_in_rows() -> None:
    """The one bright patch of 2×4 is the second row's third."""
    image = torch.zeros(1, 3, 16, 32)
    image[..., 8:16, 16:24] = 1
    assert load_backbone("descriptor", device="cpu").tokens(image)[0, :, 0].argmax() == 6


def test_fingerprint_is_always_the_same() -> None:
    first = load_backbone("descriptor", device="cpu", dtype="float32")
    assert load_backbone("descriptor", device="cpu", dtype="bfloat16").fingerprint == first.fingerprint


def test_numbers_are_standardised_over_generated_scenes() -> None:
    """Scenes of another seed than those that the constants were taken from."""
    backbone = load_backbone("descriptor", device="cpu", dtype="float32")
    images = np.stack([scene(1, number)[0] for number in range(40)])
    tokens = backbone.tokens(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).flatten(0, 1)
    assert tokens.mean(0).abs().max() < 0.4
    assert tokens.std(0).min() > 0.7
    assert tokens.std(0).max() < 1.4


def test_no_gradients_to_take(tmp_path: Path) -> None:
    backbone = load_backbone("descriptor", device="cpu")
    message = (
        r"features\.kind is 'fungi', but 'descriptor' has no layer to take gradients of; use .*--features\.kind pl"
    )
    with pytest.raises(FungiSegError, match=message):
        PatchFeatures(backbone)
    dataset = open_dataset(DataConfig(root=str(folder_tree(tmp_path / "data")), split="train"))
    with pytest.raises(FungiSegError, match=message):
        build_bank(dataset, backbone, tmp_path / "bank")
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize("weights", ["random", "some.safetensors"])
def test_it_has_no_weights(weights: str) -> None:
    with pytest.raises(FungiSegError, match=rf"backbone\.weights is '.*{weights}', but the descriptor has none"):
        load_backbone("descriptor", weights, device="cpu")


@pytest.mark.parametrize("size", [(20, 16), (16, 20), (4, 8)])
def test_sizes_that_are_no_multiples(size: tuple[int, int]) -> None:
    with pytest.raises(FungiSegError, match=rf"image size {size[0]}×{size[1]} .*doesn't fit patches of 8×8"):
        load_backbone("descriptor", device="cpu").tokens(torch.zeros(1, 3, *size))


def test_a_bank_of_descriptions(tmp_path: Path) -> None:
    """Built, opened again, and good enough to tell the colours of the rectangles."""
    root = str(folder_tree(tmp_path / "data"))
    backbone = load_backbone("descriptor", device="cpu")
    recipe = BankRecipe(FeatureConfig(kind="plain"), InputConfig(size=None), BankConfig(size=None))
    build_bank(open_dataset(DataConfig(root=root, split="train")), backbone, tmp_path / "bank", recipe)
    bank = MemoryBank.open(tmp_path / "bank")
    features = bank.patch_features(device="cpu")
    sample = open_dataset(DataConfig(root=root, split="train"))[2]
    found = features(torch.from_numpy(sample.image).permute(2, 0, 1)[None].float() / 255)[0].numpy()
    kept = bank.rows.source == bank.info.sources.index(sample.id)
    left, top = bank.rows.box[kept, :2].T
    places = (top // 8 * 8 + left // 8).astype(int)
    np.testing.assert_allclose(bank.rows.keys[kept], found[places], atol=1e-3)
    val = open_dataset(DataConfig(root=root, split="val"))[0]
    mask = Segmenter(bank, features).predict(val.image).mask
    assert (mask == val.mask)[val.mask >= 0].mean() > 0.85
