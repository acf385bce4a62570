"""Views against crops made one by one, and the rules that objectives rely on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from hypothesis import given, settings, strategies as st
from torch import Tensor

from fungi_seg import FungiSegError
from fungi_seg.features.views import CentreCrop, MultiCrop, SlidingPatches, Views
from fungi_seg.images.augment import crop_window

BICUBIC = TF.InterpolationMode.BICUBIC


def picture(height: int = 60, width: int = 90, seed: int = 0) -> Tensor:
    """A smooth random image `[3, height, width]` uint8."""
    noise = torch.rand(3, 6, 9, generator=torch.Generator().manual_seed(seed))
    return (TF.resize(noise, [height, width]) * 255).to(torch.uint8)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


ALL = (
    CentreCrop(32),
    MultiCrop(32),
    MultiCrop(16, 4),
    SlidingPatches(32),
    SlidingPatches(48, 4),
    SlidingPatches(35),
    SlidingPatches(63, 4),
)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(ALL))
def test_views_of_any_image_have_their_number_and_size(height: int, width: int, views: Views) -> None:
    cut = views(torch.full((3, height, width), 77, dtype=torch.uint8), random())
    assert cut.dtype == torch.uint8
    assert cut.shape == (views.count, 3, views.side, views.side)  # type: ignore[attr-defined]
    assert (cut == 77).all()


def test_centre_crop_is_resize_and_crop() -> None:
    crop = CentreCrop(28)(picture(64, 96), random())
    expected = TF.center_crop(TF.resize(picture(64, 96), [32, 48], interpolation=BICUBIC), [28, 28])
    assert torch.equal(crop[0], expected)


def test_centre_of_a_very_long_image() -> None:
    image = torch.zeros(3, 2, 20_000, dtype=torch.uint8)
    image[:, :, 9_990:10_010] = 200
    crop = CentreCrop(32)(image, random())
    assert crop.shape == (1, 3, 32, 32)
    assert (crop == 200).all()


def test_multi_crop_takes_its_windows_from_the_generator() -> None:
    image, twin = picture(), random(5)
    for number, crop in enumerate(MultiCrop(32, 3)(image, random(5))):
        area = (0.25, 1.0) if number < 2 else (0.05, 0.25)
        top, left, height, width = crop_window(60, 90, twin, area)
        assert 0.9 * area[0] <= height * width / 5400 <= 1.1 * area[1]
        expected = TF.resized_crop(image, top, left, height, width, [32, 32], interpolation=BICUBIC)
        assert torch.equal(crop, expected)


def test_multi_crops_differ_by_seed_and_from_each_other() -> None:
    first, again, other = (MultiCrop(32)(picture(), random(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({crop.numpy().tobytes() for crop in first}) == 12


@pytest.mark.parametrize(("side", "across"), [(48, 7), (224, 7), (48, 4)])
def test_sliding_patches_are_crops_resized_one_by_one(side: int, across: int) -> None:
    """Up to the border of each patch, where a crop knows nothing of what lies beyond."""
    image = picture(150, 200)
    views = SlidingPatches(side, across)(image, random())
    square = TF.resize(image, [side, side], interpolation=BICUBIC)
    patch, stride = side // 2, side / 2 / (across - 1)
    starts = [round(i * stride) for i in range(across)]
    singly = [
        TF.resized_crop(square, top, left, patch, patch, [side, side], interpolation=BICUBIC)
        for top in starts
        for left in starts
    ]
    inside = slice(4, -4)
    difference = (views.int() - torch.stack(singly).int()).abs()
    assert difference[..., inside, inside].max() <= 1
    assert difference.float().mean() < 1


def test_sliding_patches_reach_every_corner() -> None:
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[0, 0, 0] = image[1, 0, -1] = image[2, -1, 0] = 255
    views = SlidingPatches(64)(image, random())
    assert [int(views[i, channel].max() > 0) for i, channel in ((0, 0), (6, 1), (42, 2), (48, 0))] == [1, 1, 1, 0]
    assert views[24].max() == 0


def test_views_are_equal_by_their_settings() -> None:
    assert MultiCrop(32) == MultiCrop(32, 10)
    assert len({MultiCrop(32), MultiCrop(32, 9), MultiCrop(24), CentreCrop(32), CentreCrop(32)}) == 4


def test_one_patch_cannot_slide() -> None:
    with pytest.raises(FungiSegError, match="across is 1; sliding patches are contrasted, so it must be at least 2"):
        SlidingPatches(32, 1)
