"""Images at a scale: parts are as the whole, and tiles' features are put together without seams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from trees import scene

from fungi_seg import Backbone, DataError, FeatureConfig, FungiSegError, InputConfig, PatchFeatures
from fungi_seg.images import Blend, InputOptions, Resampling, Tiles, blended, fit_image, fit_mask, resampled

sides = st.integers(1, 90)


def each_tile(tiles: Tiles) -> Any:
    return (tile for number in range(tiles.shape[0]) for tile in tiles.row(number))


@settings(max_examples=60, deadline=None)
@given(st.tuples(sides, sides), st.tuples(sides, sides), st.data())
def test_parts_are_as_the_whole(size: tuple[int, int], content: tuple[int, int], data: st.DataObject) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 4), np.uint8)
    whole, resampling = resampled(image, content), Resampling(size, content)
    rows, columns = (
        range(start, data.draw(st.integers(start + 1, n)))
        for n in content
        for start in [data.draw(st.integers(0, n - 1))]
    )
    down, across = resampling.source(rows, columns)
    part = resampling.apply(image[down.start : down.stop, across.start : across.stop], rows, columns)
    np.testing.assert_array_equal(part, whole[rows.start : rows.stop, columns.start : columns.stop])


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_whole_factors_are_means_of_blocks(factor: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    means = image.reshape(20 // factor, factor, 30 // factor, factor, 3).mean((1, 3))
    found = resampled(image, (20 // factor, 30 // factor))
    assert np.abs(found - means).max() <= 0.5


def test_enlarged_as_linear_interpolation() -> None:
    ramp = np.repeat(np.arange(0, 200, 20, dtype=np.uint8)[None, :, None], 4, 0)
    found = resampled(ramp, (8, 20))[0, :, 0].astype(int)
    expected = np.interp((np.arange(20) + 0.5) / 2 - 0.5, np.arange(10), np.arange(0, 200, 20))
    assert np.abs(found - expected).max() <= 0.5


@settings(max_examples=80, deadline=None)
@given(st.tuples(sides, sides), st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_tiles_cover_each_patch_and_count_it_once(grid: tuple[int, int], side: tuple[int, int]) -> None:
    tiles, total, times = Tiles(grid, side), np.zeros(grid), np.zeros(grid, int)
    for tile in each_tile(tiles):
        place = (slice(tile.rows.start, tile.rows.stop), slice(tile.columns.start, tile.columns.stop))
        assert (tile.weights > 0).all()
        total[place] += tile.weights
        times[place] += 1
    np.testing.assert_allclose(total, 1, atol=1e-5)
    assert times.min() == 1
    if len(tiles) > 1:
        assert all(len(t.rows) <= max(side[0], 1) and len(t.columns) <= max(side[1], 1) for t in each_tile(tiles))
    finished = [tiles.finished(number) for number in range(tiles.shape[0])]
    assert [row for part in finished for row in part] == list(range(grid[0]))


def test_a_few_tiles_area_enters_whole() -> None:
    assert len(Tiles((16, 16), (8, 8))) == 1
    assert len(Tiles((17, 16), (8, 8))) > 1


@settings(max_examples=40, deadline=None)
@given(st.tuples(sides, sides), st.integers(1, 12))
def test_what_all_tiles_agree_on_stays(grid: tuple[int, int], side: int) -> None:
    tiles, values = Tiles(grid, (side, side)), np.random.default_rng(2).random((*grid, 3), np.float32)
    parts = (values[t.rows.start : t.rows.stop, t.columns.start : t.columns.stop] for t in each_tile(tiles))
    np.testing.assert_allclose(blended(tiles, parts), values, atol=1e-5)


def test_blending_goes_on_from_what_was_carried() -> None:
    tiles, generator = Tiles((40, 30), (8, 8)), np.random.default_rng(3)
    rows = [[generator.random((8, 8, 2), np.float32) for _ in tiles.row(n)] for n in range(tiles.shape[0])]
    blend = Blend(tiles)
    whole = [blend.row(number, values) for number, values in enumerate(rows)]
    first = Blend(tiles)
    for number in range(3):
        first.row(number, rows[number])
    second = Blend(tiles, first.carried)
    for number in range(3, len(rows)):
        np.testing.assert_array_equal(second.row(number, rows[number]), whole[number])


@pytest.mark.parametrize("kind", ["plain", "fungi"])
def test_features_of_tiles(tiny_backbone: Backbone, kind: str) -> None:
    """Each tile by itself, weighed and summed patch by patch, each half brought to unit length."""
    image, features = scene(0, 120, 152)[0], PatchFeatures(tiny_backbone, FeatureConfig(kind=kind))
    fitted = features.fit_image(image, InputConfig(None, scale=1, tile=40))
    assert fitted.tiles is not None
    assert len(fitted.tiles) > 4
    total = torch.zeros(*fitted.tiles.grid, features.dim)
    for tile in each_tile(fitted.tiles):
        rows, columns = (slice(part.start * 8, part.stop * 8) for part in (tile.rows, tile.columns))
        found = features(fitted.image[None, :, rows, columns])[0]
        weighed = found.view(len(tile.rows), len(tile.columns), -1) * torch.from_numpy(tile.weights)[..., None]
        total[tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop] += weighed
    parts = total.split(24, -1)
    expected = torch.cat([part / part.norm(dim=-1, keepdim=True) for part in parts], -1) / len(parts) ** 0.5
    found = features.of([fitted])[0].view(*fitted.tiles.grid, -1)
    assert torch.allclose(found, expected, atol=2e-5)
    assert torch.allclose(features.of([fitted, fitted])[1], found.flatten(0, 1))


def test_an_image_of_few_tiles_is_as_without_them(tiny_backbone: Backbone) -> None:
    features = PatchFeatures(tiny_backbone)
    fitted = features.fit_image(scene(1)[0], InputConfig(None, scale=1, tile=32))
    own = features.fit_image(scene(1)[0], InputConfig(None))
    assert torch.equal(features.of([fitted]), features(own.image[None]))


def test_masks_take_the_pixel_at_the_centre() -> None:
    mask = np.arange(30 * 40, dtype=np.int16).reshape(30, 40)
    found = fit_mask(mask, InputConfig(None, scale=0.5), (8, 8))
    np.testing.assert_array_equal(found[:15, :20], mask[1::2, 1::2])
    assert (found[15:] == -1).all()
    assert found.shape == (16, 24)


def test_the_border_is_repeated_and_not_content() -> None:
    image = scene(2, 45, 61)[0]
    fitted = fit_image(image, InputConfig(None, scale=1), (8, 8))
    assert fitted.content == (45, 61)
    assert fitted.image.shape == (3, 48, 64)
    np.testing.assert_array_equal(fitted.image[:, :45, :61].permute(1, 2, 0).numpy(), image)
    assert (fitted.image[:, 45:] == fitted.image[:, 44:45]).all()


@pytest.mark.parametrize(
    ("settings_of", "message"),
    [
        ({"scale": 0}, "input.scale is 0; it must be a number above 0"),
        ({"size": None, "scale": 0.5, "resolution": 2.0}, "one of them decides"),
        ({"size": 256, "scale": 0.5}, "input.size is 256, but input.scale or input.resolution decides"),
        ({"size": None, "scale": 0.5, "fit": "pad"}, "input.fit is 'pad'"),
        ({"tile": 256}, "input.tile is 256, but images enter at a size"),
        ({"size": None, "scale": 1, "tile": 0}, "input.tile is 0"),
        ({"channels": ("1", "2")}, "input.channels names 2 channels"),
        ({"channels": ("all", "2")}, "all stands alone"),
        ({"projection": "median"}, "input.projection is 'median'"),
        ({"limits": (5, 5)}, "input.limits is"),
        ({"limits": (5,)}, "input.limits is"),
        ({"scaling": "none"}, "input.scaling is 'none'"),
    ],
)
def test_settings_that_cannot_be(settings_of: dict[str, Any], message: str) -> None:
    with pytest.raises(FungiSegError, match=message.replace(".", r"\.")):
        InputConfig(**settings_of)


def test_the_default_size_gives_way_to_a_scale() -> None:
    assert InputConfig(scale=0.5).size is None
    assert InputConfig(resolution=2).scaled


@pytest.mark.parametrize(
    ("input", "message"),
    [
        (InputConfig(scale=0.1), "would enter as 5×6, smaller than a patch of 8×8: give a larger input.scale"),
        (InputConfig(scale=1, tile=4), "input.tile is 4, smaller than a patch of 8×8"),
        (InputConfig(resolution=0.5), "nothing says how wide the image's pixels are"),
    ],
)
def test_images_that_cannot_enter(tiny_backbone: Backbone, input: InputConfig, message: str) -> None:
    with pytest.raises(DataError, match=message.replace(".", r"\.")):
        PatchFeatures(tiny_backbone).fit_image(scene(0)[0], input)


def test_a_resolution_is_a_scale_once_pixels_have_a_width() -> None:
    assert InputConfig(resolution=0.5).at(0.25).scale == 0.5
    assert InputConfig(resolution=0.5).at(None) == InputConfig(resolution=0.5)
    assert InputConfig(256).at(0.25) == InputConfig(256)


def test_options_take_the_place_of_a_banks() -> None:
    assert InputOptions().over(InputConfig(256)) == InputConfig(256)
    assert InputOptions(scale=0.5).over(InputConfig(256, fit="pad")) == InputConfig(scale=0.5)
    assert InputOptions(resolution=2).over(InputConfig(scale=1, tile=64)) == InputConfig(resolution=2, tile=64)
    assert InputOptions(channels=("2",)).over(InputConfig(256)).channels == ("2",)
    with pytest.raises(FungiSegError, match="whether channels are joined is up to the bank"):
        InputOptions(channels=("all",)).over(InputConfig())
