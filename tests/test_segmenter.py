"""From an image to its mask, held against a naive computation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import HALF, TINY
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from trees import folder_tree, scene

from fungi_seg import (
    Backbone,
    BankConfig,
    BankError,
    DataConfig,
    DataError,
    DecoderConfig,
    FeatureConfig,
    FungiSegError,
    IndexConfig,
    InputConfig,
    MemoryBank,
    OverlayConfig,
    PatchFeatures,
    Segmentation,
    Segmenter,
    build_bank,
    load_backbone,
    open_dataset,
)
from fungi_seg.bank.settings import BankRecipe

PATCH = 8


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_tree(tmp_path_factory.mktemp("data") / "tree")


def make(tree: Path, backbone: Backbone, out: Path, features: FeatureConfig | None = None, **input: Any) -> MemoryBank:
    dataset = open_dataset(DataConfig(root=str(tree), split="train"))
    input = {"size": None} | input
    return build_bank(
        dataset, backbone, out, BankRecipe(features or FeatureConfig(), InputConfig(**input), BankConfig(size=None))
    )


def segmenter_of(bank: MemoryBank, backbone: Backbone, decoder: DecoderConfig | None = None) -> Segmenter:
    return Segmenter(bank, bank.patch_features(backbone=backbone), decoder)


@pytest.fixture(scope="module")
def bank(tree: Path, tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    """All 192 patches of four images at their own size, FUNGI features."""
    return make(tree, tiny_backbone, tmp_path_factory.mktemp("bank") / "bank")


@pytest.fixture(scope="module")
def segmenter(bank: MemoryBank, tiny_backbone: Backbone) -> Segmenter:
    return segmenter_of(bank, tiny_backbone)


def naive_scores(segmenter: Segmenter, image: torch.Tensor, k: int, temperature: float) -> torch.Tensor:
    """`[C, h, w]` votes for `[3, H, W]` uint8, neighbour by neighbour."""
    bank = segmenter.bank
    keys, labels = bank.rows.keys.astype(np.float32), bank.rows.labels
    queries = segmenter.features(image[None].float() / 255)[0].numpy()
    scores = np.zeros((len(queries), len(bank.info.classes)))
    for query, similarities in enumerate(queries @ keys.T):
        nearest = np.argsort(-similarities, kind="stable")[:k]
        exponents = np.exp(similarities[nearest].astype(np.float64) / temperature)
        for row, weight in zip(nearest, exponents / exponents.sum(), strict=True):
            for entry in range(labels.offsets[row], labels.offsets[row + 1]):
                scores[query, labels.ids[entry]] += weight * labels.weights[entry] / 255
    grid = image.shape[1] // PATCH, image.shape[2] // PATCH
    return torch.from_numpy(scores.T).reshape(-1, *grid).float()


def naive_mask(scores: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0].argmax(0).numpy()


def tensor_of(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def iou(mask: np.ndarray, truth: np.ndarray, index: int) -> float:
    seen = truth != 255
    both = ((mask == index) & (truth == index) & seen).sum()
    return float(both / (((mask == index) | (truth == index)) & seen).sum())


@pytest.mark.parametrize(("k", "temperature"), [(30, 0.02), (1, 0.02), (7, 0.5), (192, 0.07)])
@pytest.mark.parametrize("kind", ["plain", "fungi"])
def test_mask_is_the_naive_one(
    tree: Path, tiny_backbone: Backbone, tmp_path: Path, kind: str, k: int, temperature: float
) -> None:
    bank = make(tree, tiny_backbone, tmp_path / "bank", FeatureConfig(kind=kind))
    segmenter = segmenter_of(bank, tiny_backbone, DecoderConfig(k, temperature))
    image = scene(100)[0]
    result = segmenter.predict(image)
    scores = naive_scores(segmenter, tensor_of(image), k, temperature)
    np.testing.assert_allclose(result.patch_scores.numpy(), scores.numpy(), atol=1e-4)
    assert (result.mask == naive_mask(scores, (48, 64))).mean() >= 0.999


def test_resized_input_gives_the_naive_mask_at_own_size(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """45×70 enters as 48×72; the mask is of 45×70."""
    bank = make(tree, tiny_backbone, tmp_path / "bank")
    segmenter = segmenter_of(bank, tiny_backbone)
    image = scene(100, 45, 70)[0]
    result = segmenter.predict(image)
    fitted = segmenter.fit(image)
    assert fitted.image.shape == (3, 48, 72)
    scores = naive_scores(segmenter, fitted.image, 30, 0.02)
    assert result.mask.shape == (45, 70)
    assert (result.mask == naive_mask(scores, (45, 70))).mean() >= 0.999


def test_padded_input_gives_the_naive_mask_at_own_size(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """45×70 is padded to 48×72; the mask is the padded one, cropped."""
    bank = make(tree, tiny_backbone, tmp_path / "bank", fit="pad")
    segmenter = segmenter_of(bank, tiny_backbone)
    image = scene(100, 45, 70)[0]
    padded = tensor_of(np.pad(image, ((0, 3), (0, 2), (0, 0)), mode="edge"))
    result = segmenter.predict(image)
    assert torch.equal(segmenter.fit(image).image, padded)
    assert result.mask.shape == (45, 70)
    assert result.scores.shape == (3, 45, 70)
    expected = naive_mask(naive_scores(segmenter, padded, 30, 0.02), (48, 72))[:45, :70]
    assert (result.mask == expected).mean() >= 0.999


@pytest.mark.parametrize("input", [{"size": 32}, {"size": 100, "fit": "pad"}, {"size": 40, "keep_aspect": False}])
def test_mask_has_the_images_size(tree: Path, tiny_backbone: Backbone, tmp_path: Path, input: dict[str, Any]) -> None:
    segmenter = segmenter_of(make(tree, tiny_backbone, tmp_path / "bank", **input), tiny_backbone)
    for size in [(48, 64), (61, 53), (97, 31)]:
        result = segmenter.predict(scene(100, *size)[0])
        assert result.mask.shape == size
        assert result.mask.dtype == np.uint8


def test_every_way_to_give_an_image(segmenter: Segmenter, tree: Path) -> None:
    path = tree / "val" / "images" / "val_0.png"
    array = scene(100)[0]
    tensor = tensor_of(array)
    expected = segmenter.predict(path)
    given = (str(path), array, Image.fromarray(array), tensor, tensor.float() / 255, array / 255.0)
    for image in given:
        np.testing.assert_array_equal(segmenter.predict(image).mask, expected.mask)
    np.testing.assert_array_equal(expected.image, array)


def test_grey_and_alpha_images(segmenter: Segmenter, tmp_path: Path) -> None:
    array = scene(100)[0]
    grey = array[..., 0]
    expected = segmenter.predict(np.repeat(grey[..., None], 3, axis=2)).mask
    Image.fromarray(grey).save(tmp_path / "grey.png")
    for image in (grey, grey[..., None], Image.fromarray(grey), tmp_path / "grey.png"):
        np.testing.assert_array_equal(segmenter.predict(image).mask, expected)
    rgba = np.concatenate([array, np.full((48, 64, 1), 200, np.uint8)], axis=2)
    for image in (rgba, Image.fromarray(rgba)):
        np.testing.assert_array_equal(segmenter.predict(image).mask, segmenter.predict(array).mask)


def test_scores_agree_with_the_mask(segmenter: Segmenter) -> None:
    result = segmenter.predict(scene(100)[0])
    assert result.scores.shape == (3, 48, 64)
    assert result.scores.dtype == np.float32
    np.testing.assert_array_equal(result.scores.argmax(0), result.mask)
    np.testing.assert_allclose(result.scores.sum(0), 1, atol=1e-5)
    assert result.scores.min() >= 0


def test_palette_image(segmenter: Segmenter, tmp_path: Path) -> None:
    result = segmenter.predict(scene(100)[0])
    result.palette_image().save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), result.mask)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), segmenter.palette[result.mask])
    assert segmenter.palette.tolist() == [[0, 0, 0], [230, 159, 0], [86, 180, 233]]


def test_overlay(segmenter: Segmenter) -> None:
    image = scene(100)[0]
    result = segmenter.predict(image)
    colours = segmenter.palette[result.mask].astype(float)
    shown = (result.mask > 0)[..., None]  # class 0 is black and leaves the image as it is
    np.testing.assert_array_equal(np.asarray(result.overlay(OverlayConfig("fill", 0))), image)
    np.testing.assert_array_equal(np.asarray(result.overlay(OverlayConfig("fill", 1))), np.where(shown, colours, image))
    mixed = np.where(shown, image * 0.75 + colours * 0.25, image)
    np.testing.assert_allclose(np.asarray(result.overlay(OverlayConfig("fill", 0.25))), mixed, atol=0.51)


def test_more_than_256_classes() -> None:
    mask = np.array([[0, 299]], np.uint16)
    palette = np.zeros((300, 3), np.uint8)
    names = tuple(map(str, range(300)))
    result = Segmentation(mask, torch.zeros(300, 1, 1), (1, 1), names, palette, np.zeros((1, 2, 3), np.uint8))
    np.testing.assert_array_equal(np.asarray(result.palette_image()), mask)
    assert result.overlay().size == (2, 1)


@pytest.mark.parametrize("kind", ["plain", "fungi"])
def test_known_images_are_recovered(tree: Path, tiny_backbone: Backbone, tmp_path: Path, kind: str) -> None:
    """One neighbour and the bank's own images: masks are right but for the blocks at the borders."""
    bank = make(tree, tiny_backbone, tmp_path / "bank", FeatureConfig(kind=kind))
    segmenter = segmenter_of(bank, tiny_backbone, DecoderConfig(k=1))
    for seed in range(4):
        image, truth = scene(seed)
        mask = segmenter.predict(image).mask
        assert iou(mask, truth, 0) > 0.9
        assert min(iou(mask, truth, 1), iou(mask, truth, 2)) > 0.65


def test_new_images_are_segmented_by_colour(segmenter: Segmenter) -> None:
    found = [iou(segmenter.predict(image).mask, truth, 0) for image, truth in map(scene, range(100, 104))]
    assert min(found) > 0.8


def test_a_batch_gives_what_single_images_give(segmenter: Segmenter) -> None:
    images = [scene(seed)[0] for seed in (100, 101)]
    together = segmenter.predict_fitted([segmenter.fit(image) for image in images], images)
    for image, result in zip(images, together, strict=True):
        alone = segmenter.predict(image)
        torch.testing.assert_close(result.patch_scores, alone.patch_scores, atol=1e-4, rtol=0)
        assert (result.mask == alone.mask).mean() >= 0.999


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_images_of_mixed_sizes_keep_their_order(segmenter: Segmenter, tree: Path, batch_size: int) -> None:
    wide, tall = scene(4)[0], np.ascontiguousarray(scene(5)[0].transpose(1, 0, 2))
    images = [wide, tall, wide[::-1].copy(), tree / "val" / "images" / "val_1.png", tall[::-1].copy()]
    found = segmenter.predict_batch(images, batch_size=batch_size)
    assert len(found) == len(images)
    for image, one in zip(images, found, strict=True):
        alone = segmenter.predict(image)
        np.testing.assert_array_equal(one.image, alone.image)
        assert np.mean(one.mask != alone.mask) < 0.001  # a batch's sums may round otherwise at the edge of two classes
        torch.testing.assert_close(one.patch_scores, alone.patch_scores, atol=1e-4, rtol=0)
    assert segmenter.predict_batch([]) == []
    with pytest.raises(FungiSegError, match="batch_size is 0; it must be at least 1"):
        segmenter.predict_batch(images, batch_size=0)


def test_bytes_and_open_files(segmenter: Segmenter, tree: Path, tmp_path: Path) -> None:
    path = tree / "val" / "images" / "val_1.png"
    expected, data = segmenter.predict(path), path.read_bytes()
    for given in (data, bytearray(data), memoryview(data), io.BytesIO(data), path.open("rb")):
        np.testing.assert_array_equal(segmenter.predict(given).mask, expected.mask)
    tiff = io.BytesIO()
    Image.open(path).save(tiff, "TIFF")
    np.testing.assert_array_equal(segmenter.predict(tiff.getvalue()).mask, expected.mask)
    with pytest.raises(DataError, match="the image that was given: can't be read as an image"):
        segmenter.predict(data[:200])
    with path.open(encoding="latin-1") as text, pytest.raises(DataError, match=r"val_1\.png: it reads as text; open"):
        segmenter.predict(text)


def test_bank_by_its_folder(bank: MemoryBank, segmenter: Segmenter) -> None:
    image = scene(100)[0]
    found = Segmenter(str(bank.path), dtype="float32", device="cpu").predict(image)
    np.testing.assert_array_equal(found.mask, segmenter.predict(image).mask)


def test_approximate_index(bank: MemoryBank, tiny_backbone: Backbone, segmenter: Segmenter) -> None:
    features = bank.patch_features(backbone=tiny_backbone)
    approximate = Segmenter(bank, features, index=IndexConfig("IVF4,Flat", nprobe=4))
    image = scene(100)[0]
    assert approximate.recall(image) > 0.999
    assert (approximate.predict(image).mask == segmenter.predict(image).mask).mean() > 0.999


def test_support_set_travels_with_the_bank(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    make(tree, tiny_backbone, tmp_path / "bank", FeatureConfig(negatives=2, support_size=30))
    image = scene(100)[0]
    one, two = (Segmenter(tmp_path / "bank", dtype="float32").predict(image) for _ in range(2))
    np.testing.assert_array_equal(one.mask, two.mask)
    assert one.mask.shape == (48, 64)


def test_image_smaller_than_a_patch(segmenter: Segmenter) -> None:
    with pytest.raises(DataError, match=r"the image is 5×64 .* smaller than a patch of 8×8"):
        segmenter.predict(scene(0, 5, 64, void=False)[0])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((48, 64, 2), np.uint8), r"shape \(48, 64, 2\)"),
        (np.full((48, 64, 3), 2.0), r"floats must be in 0\.\.1"),
        (np.full((48, 64, 3), np.nan), r"floats must be in 0\.\.1"),
        (torch.zeros(48, 64, 3), r"tensor of shape \[48, 64, 3\]"),
        ([[0]], "image is a list"),
        ("nowhere.jpg", "nowhere.jpg: no such image file"),
    ],
)
def test_unusable_images(segmenter: Segmenter, image: Any, message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        segmenter.predict(image)


def test_more_neighbours_than_rows(bank: MemoryBank, tiny_backbone: Backbone) -> None:
    with pytest.raises(FungiSegError, match=r"decoder\.k is 193.*192 rows"):
        segmenter_of(bank, tiny_backbone, DecoderConfig(k=193))


@pytest.mark.parametrize(("k", "temperature"), [(0, 0.02), (5, 0.0), (5, -1.0), (5, float("nan"))])
def test_decoder_rules(k: int, temperature: float) -> None:
    with pytest.raises(FungiSegError, match=r"decoder\.(k|temperature) is"):
        DecoderConfig(k, temperature)


def test_bank_of_another_backbone(bank: MemoryBank, tmp_path: Path) -> None:
    torch.manual_seed(8)
    torch.save(VisionTransformer(**TINY).state_dict(), tmp_path / "other.pth")
    other = load_backbone("other", tmp_path / "other.pth", model_args=TINY, mean=HALF, std=HALF)
    with pytest.raises(BankError, match="built with another backbone"):
        Segmenter(bank, PatchFeatures(other))
    with pytest.raises(BankError, match="built with another backbone"):
        Segmenter(bank, weights=str(tmp_path / "other.pth"))


def test_features_of_another_kind_are_refused(bank: MemoryBank, tiny_backbone: Backbone) -> None:
    """Right backbone, but not the features the bank was built with."""
    for features in (FeatureConfig(kind="plain"), FeatureConfig(seed=1), FeatureConfig(projection="dense")):
        with pytest.raises(BankError):
            Segmenter(bank, PatchFeatures(tiny_backbone, features))


@pytest.mark.parametrize(
    ("option", "value"), [("weights", "weights.safetensors"), ("device", "cpu"), ("dtype", "float32")]
)
def test_how_to_load_what_is_loaded(bank: MemoryBank, tiny_backbone: Backbone, option: str, value: str) -> None:
    message = f"{option} is '{value}', but {{}} is given too, .*loaded already; leave {option} out"
    features = bank.patch_features(backbone=tiny_backbone)
    with pytest.raises(FungiSegError, match=message.format("features")):
        Segmenter(bank, features, **{option: value})
    with pytest.raises(FungiSegError, match=message.format("backbone")):
        bank.patch_features(**{option: value}, backbone=tiny_backbone)
