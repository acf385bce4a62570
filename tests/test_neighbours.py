"""Who voted for a patch, held against the vote itself and a brute-force search; and overlays of a mask."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
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
    MemoryBank,
    Segmenter,
    build_bank,
    open_dataset,
)
from fungi_seg.bank.settings import BankRecipe
from fungi_seg.images.pictures import overlay
from fungi_seg.rasters import colours

PATCH = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four training images of 48×64."""
    return str(folder_tree(tmp_path_factory.mktemp("data") / "tree"))


def bank_of(root: str, backbone: Backbone, out: Path, input: InputConfig, kind: str = "plain") -> MemoryBank:
    dataset = open_dataset(DataConfig(root=root, split="train"))
    return build_bank(dataset, backbone, out, BankRecipe(FeatureConfig(kind=kind), input, BankConfig(size=None)))


def segmenter_of(bank: MemoryBank, backbone: Backbone, k: int = 30, index: IndexConfig | None = None) -> Segmenter:
    return Segmenter(bank, bank.patch_features(backbone=backbone), DecoderConfig(k), index)


@pytest.fixture(scope="module")
def segmenter(root: str, tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """Over all 192 patches of the training images at their own size, 30 neighbours."""
    out = tmp_path_factory.mktemp("banks") / "bank"
    return segmenter_of(bank_of(root, tiny_backbone, out, InputConfig(size=None)), tiny_backbone)


def places(segmenter: Segmenter, image: np.ndarray) -> np.ndarray:
    """`[H, W]` number of the patch that each pixel falls into: a picture of patch numbers, resized."""
    fitted = segmenter.fit(image)
    down, across = fitted.image.shape[1] // PATCH, fitted.image.shape[2] // PATCH
    numbers = np.arange(down * across, dtype=np.float32).reshape(down, across).repeat(PATCH, 0).repeat(PATCH, 1)
    content = numbers[: fitted.content[0], : fitted.content[1]]
    return cv2.resize(content, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT).astype(int)


INPUTS = {
    "own size": (InputConfig(size=None), (48, 64)),
    "stretched to patches": (InputConfig(size=None), (45, 70)),
    "padded": (InputConfig(size=None, fit="pad"), (45, 70)),
    "padded by all but a pixel": (InputConfig(size=None, fit="pad"), (57, 33)),
    "enlarged and padded": (InputConfig(size=60, fit="pad"), (31, 47)),
    "made smaller": (InputConfig(size=32), (97, 61)),
    "made square": (InputConfig(size=40, keep_aspect=False), (97, 31)),
    "flat": (InputConfig(size=(24, 96)), (50, 60)),
}


@pytest.mark.parametrize("case", INPUTS)
def test_neighbours_are_those_that_voted(root: str, tiny_backbone: Backbone, tmp_path: Path, case: str) -> None:
    """At corners, borders and inside: the patch's vote, and the nearest rows of all by brute force."""
    input, (height, width) = INPUTS[case]
    segmenter = segmenter_of(bank_of(root, tiny_backbone, tmp_path / "bank", input), tiny_backbone)
    image = scene(100, height, width)[0]
    scores = segmenter.predict(image).patch_scores.flatten(1).numpy()
    queries = segmenter.features(segmenter.fit(image).image[None].float() / 255)[0].numpy()
    cosines = queries @ segmenter.bank.rows.keys.astype(np.float32).T
    best = -np.sort(-cosines, axis=1)[:, :30]
    patch_at = places(segmenter, image)
    corners = [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)]
    for x, y in [*corners, (width // 2, height // 3), (width // 4, height - 2), (width - 2, height * 3 // 5)]:
        patch = patch_at[y, x]
        found = segmenter.neighbours(image, x, y)
        assert len({n.row for n in found}) == len(found) == 30
        similarities = [n.similarity for n in found]
        np.testing.assert_allclose(similarities, best[patch], atol=1e-5)
        np.testing.assert_allclose(similarities, cosines[patch][[n.row for n in found]], atol=1e-5)
        assert (np.abs(best - best[patch]).max(1) < 2e-5).sum() == 1  # no other patch has these neighbours
        weights = np.array([n.weight for n in found])
        assert weights.sum() == pytest.approx(1, abs=1e-5)
        assert (np.diff(weights) <= 0).all()
        exponents = np.exp(best[patch].astype(np.float64) / 0.02)
        np.testing.assert_allclose(weights, exponents / exponents.sum(), atol=1e-3)
        voted = sum(n.weight * n.labels for n in found)
        np.testing.assert_allclose(voted, scores[:, patch], atol=1e-4)


@pytest.mark.parametrize("input", [InputConfig(size=None), InputConfig(size=96), InputConfig(size=(56, 56))])
def test_box_and_source_are_the_rows(root: str, tiny_backbone: Backbone, tmp_path: Path, input: InputConfig) -> None:
    """Of an image in the bank the nearest patch is its own, whose box holds the pixel."""
    segmenter = segmenter_of(bank_of(root, tiny_backbone, tmp_path / "bank", input), tiny_backbone, k=3)
    dataset = open_dataset(DataConfig(root=root, split="train"))
    for number, (x, y) in enumerate([(63, 47), (20, 8), (9, 40), (40, 1)]):
        sample = dataset[number]
        own = segmenter.neighbours(sample.image, x, y)[0]
        assert own.source == sample.id
        assert own.similarity == pytest.approx(1, abs=1e-3)
        left, top, right, bottom = own.box
        assert left <= x + 0.5 <= right
        assert top <= y + 0.5 <= bottom
        assert right - left == pytest.approx(64 / (segmenter.fit(sample.image).image.shape[2] / PATCH), abs=1e-3)
        assert bottom - top == pytest.approx(48 / (segmenter.fit(sample.image).image.shape[1] / PATCH), abs=1e-3)
        np.testing.assert_array_equal(segmenter.bank.rows.box[own.row], own.box)


def test_labels_are_the_shares_in_the_truth(segmenter: Segmenter, root: str) -> None:
    dataset = open_dataset(DataConfig(root=root, split="train"))
    truths = {sample.id: sample.mask for sample in dataset}
    found = segmenter.neighbours(scene(100)[0], 31, 20)
    assert len({n.source for n in found}) > 1
    for neighbour in found:
        left, top, right, bottom = map(int, neighbour.box)
        part = truths[neighbour.source][top:bottom, left:right]
        shares = np.bincount(part[part >= 0], minlength=3) / (part >= 0).sum()
        np.testing.assert_allclose(neighbour.labels, shares, atol=1 / 255)


def test_fungi_features(root: str, tiny_backbone: Backbone, tmp_path: Path) -> None:
    bank = bank_of(root, tiny_backbone, tmp_path / "bank", InputConfig(size=None), "fungi")
    segmenter = segmenter_of(bank, tiny_backbone)
    image = scene(100)[0]
    voted = sum(n.weight * n.labels for n in segmenter.neighbours(image, 50, 10))
    np.testing.assert_allclose(voted, segmenter.predict(image).patch_scores[:, 1, 6], atol=1e-4)


def test_every_way_to_give_an_image(segmenter: Segmenter, root: str) -> None:
    path = Path(root) / "val" / "images" / "val_0.png"
    array = scene(100)[0]
    rows = [n.row for n in segmenter.neighbours(array, 5, 30)]
    for image in (path, Image.fromarray(array), torch.from_numpy(array).permute(2, 0, 1)):
        assert [n.row for n in segmenter.neighbours(image, 5, 30)] == rows


def test_every_neighbour_is_found_however_few_lists_are_searched(
    root: str, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    """One of 16 lists holds fewer rows than the 100 asked for."""
    bank = bank_of(root, tiny_backbone, tmp_path / "bank", InputConfig(size=None))
    segmenter = segmenter_of(bank, tiny_backbone, 100, IndexConfig("IVF16,Flat", nprobe=1))
    image = scene(100)[0]
    found = segmenter.neighbours(image, 30, 12)
    assert len({n.row for n in found}) == len(found) == 100
    assert sum(n.weight for n in found) == pytest.approx(1, abs=1e-5)
    voted = sum(n.weight * n.labels for n in found)
    np.testing.assert_allclose(voted, segmenter.predict(image).patch_scores[:, 1, 3], atol=1e-4)


@pytest.mark.parametrize(("x", "y"), [(64, 0), (0, 48), (-1, 3), (3, -1), (48, 63)])
def test_a_pixel_outside(segmenter: Segmenter, x: int, y: int) -> None:
    message = rf"the pixel \({x}, {y}\) isn't in the image, which is 64×48 \(width×height\)"
    with pytest.raises(FungiSegError, match=message):
        segmenter.neighbours(scene(100)[0], x, y)


def test_unusable_images(segmenter: Segmenter) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jpg: no such image file"):
        segmenter.neighbours("nowhere.jpg", 0, 0)
    with pytest.raises(DataError, match=r"the image is 5×64 .* smaller than a patch of 8×8"):
        segmenter.neighbours(scene(0, 5, 64, void=False)[0], 0, 0)


# Overlays

PALETTE = np.array([[0, 0, 0], [200, 0, 40], [0, 0, 0], [0, 255, 1]], np.uint8)


def test_overlay_of_every_class() -> None:
    """Void and the two black classes leave the image; the void index −1 isn't the last class."""
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 3), np.uint8)
    mask = np.array([[-1, 0, 1, 2, 3], [3, -1, -1, 1, 0]], np.int16)
    found = np.asarray(overlay(image, mask, PALETTE))
    for row in range(2):
        for column in range(5):
            index, pixel = mask[row, column], image[row, column].astype(float)
            wanted = pixel * 0.5 + PALETTE[index] * 0.5 if index in (1, 3) else pixel
            np.testing.assert_allclose(found[row, column], wanted, atol=0.5)


@pytest.mark.parametrize(("opacity", "expected"), [(0, [10, 20, 30]), (0.2, [8, 67, 24]), (1, [0, 255, 1])])
def test_overlay_opacity(opacity: float, expected: list[int]) -> None:
    image = np.full((1, 1, 3), (10, 20, 30), np.uint8)
    found = overlay(image, np.array([[3]], np.uint8), PALETTE, opacity)
    assert (found.mode, list(found.getpixel((0, 0)))) == ("RGB", expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int64])
@pytest.mark.parametrize("opacity", [0, 0.1, 0.35, 0.5, 0.6, 1])
def test_overlay_is_what_floats_give(monkeypatch: pytest.MonkeyPatch, dtype: type, opacity: float) -> None:
    """Strip by strip it's what the whole image gives in float64."""
    monkeypatch.setattr(colours, "STRIP_PIXELS", 70)
    generator = np.random.default_rng(1)
    palette = generator.integers(0, 256, (200, 3)).astype(np.uint8)
    palette[3] = 0
    image = generator.integers(0, 256, (41, 30, 3)).astype(np.uint8)
    mask = generator.integers(-1 if np.dtype(dtype).kind == "i" else 0, 200, (41, 30)).astype(dtype)
    shown = (np.any(palette, axis=1)[mask] & (mask >= 0))[..., None]
    mixed = np.where(shown, image * (1 - opacity) + palette[mask] * opacity, image)
    expected = mixed.round().astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(overlay(image, mask, palette, opacity)), expected)


def test_overlay_of_nothing_but_void_and_black() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    void = np.full((4, 6), -1, np.int16)
    np.testing.assert_array_equal(np.asarray(overlay(image, void, PALETTE)), image)
    black = np.zeros((2, 3), np.uint8)
    np.testing.assert_array_equal(np.asarray(overlay(image, void + 2, black)), image)
