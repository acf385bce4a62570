"""What is left out together when settings are tried: images, or blocks of few large ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tifffile
from trees import scene

from fungi_seg import Backbone, BankConfig, BankRecipe, DataConfig, InputConfig, MemoryBank, build_bank, open_dataset
from fungi_seg.segmentation import fit_decoder, units


def bank_of(*sides: int) -> MemoryBank:
    """Rows of images of so many patches a side, 16 pixels each."""
    boxes, source = [], []
    for number, side in enumerate(sides):
        y, x = np.divmod(np.arange(side * side), side)
        boxes.append(np.stack([x, y, x + 1, y + 1], 1) * 16)
        source.append(np.full(side * side, number, np.int32))
    rows: Any = SimpleNamespace(source=np.concatenate(source), box=np.concatenate(boxes).astype(np.float32))
    return cast(MemoryBank, SimpleNamespace(rows=rows))


def test_images_where_there_are_enough() -> None:
    bank = bank_of(200, 8, 8, 8, 8)
    unit, in_blocks = units.units_of(bank)
    assert not in_blocks
    np.testing.assert_array_equal(unit, bank.rows.source)


def test_few_small_images_stay_whole() -> None:
    unit, in_blocks = units.units_of(bank_of(64, 100))
    assert not in_blocks
    assert len(np.unique(unit)) == 2


def test_a_large_image_is_cut_into_blocks() -> None:
    bank = bank_of(160, 20)
    unit, in_blocks = units.units_of(bank)
    assert in_blocks
    large = unit[bank.rows.source == 0].reshape(160, 160)
    assert len(np.unique(large)) == 9
    for number in np.unique(large):
        ys, xs = np.nonzero(large == number)
        assert (np.ptp(ys) + 1) * (np.ptp(xs) + 1) == len(ys)
        assert min(np.ptp(ys), np.ptp(xs)) + 1 >= units.BLOCK_SIDE
    assert len(np.unique(unit[bank.rows.source == 1])) == 1
    assert unit[bank.rows.source == 1].min() > large.max()


def test_settings_are_fitted_on_blocks_of_one_image(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = scene(5)
    for kind, values, photometric in (
        ("images", np.tile(image, (4, 4, 1)), "rgb"),
        ("masks", np.tile(mask, (4, 4)), "minisblack"),
    ):
        (tmp_path / "train" / kind).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "train" / kind / "one.tif", values, photometric=photometric)
    (tmp_path / "classes.txt").write_text("background\nred\ngreen\n")
    dataset = open_dataset(DataConfig(root=str(tmp_path), split="train"))
    recipe = BankRecipe(input=InputConfig(None), bank=BankConfig(None))
    bank = build_bank(dataset, tiny_backbone, tmp_path / "bank", recipe)
    assert "1 images, fewer than 5" in fit_decoder(bank).notes[0]
    monkeypatch.setattr(units, "LARGE_SIDE", 16)
    monkeypatch.setattr(units, "BLOCK_SIDE", 4)
    found = fit_decoder(bank)
    assert found.facts["fitted"] >= found.facts["published"]
    assert "of 16 blocks of large images that took turns" in found.notes[-1]
