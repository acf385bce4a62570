"""Files segmented in batches, read ahead, against the same ones segmented one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from trees import scene

from fungi_seg import Backbone, DataError, FungiSegError, LoadConfig, MemoryBank, Segmentation, Segmenter
from fungi_seg.features import memory
from fungi_seg.segmentation import many, segment_files

SIZES = [(48, 64), (48, 64), (48, 64), (40, 64), (48, 64), (40, 64), (40, 64)]


@pytest.fixture(scope="module")
def segmenter(bank: MemoryBank, tiny_backbone: Backbone) -> Segmenter:
    return Segmenter(bank, bank.patch_features(backbone=tiny_backbone))


@pytest.fixture
def batches(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images are segmented together, time after time."""
    sizes: list[int] = []
    together = Segmenter.predict_fitted

    def counted(self: Segmenter, fitted: Any, *arguments: Any, **options: Any) -> list[Segmentation]:
        sizes.append(len(fitted))
        return together(self, fitted, *arguments, **options)

    monkeypatch.setattr(Segmenter, "predict_fitted", counted)
    return sizes


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Images of two sizes, some of one size after each other."""
    return [save(tmp_path / f"{i}.png", scene(i)[0][: size[0]]) for i, size in enumerate(SIZES)]


def save(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (2, 1), (4, 2), (100, 3)])
def test_each_is_what_predict_gives(segmenter: Segmenter, paths: list[Path], batch_size: int, workers: int) -> None:
    found = list(segment_files(segmenter, paths, LoadConfig(batch_size, workers)))
    assert len(found) == len(paths)
    for path, result in zip(paths, found, strict=True):
        alone = segmenter.predict(path)
        assert isinstance(result, Segmentation)
        np.testing.assert_array_equal(result.mask, alone.mask)
        np.testing.assert_array_equal(result.image, alone.image)
        torch.testing.assert_close(result.patch_scores, alone.patch_scores, atol=1e-4, rtol=0)


def test_images_of_one_size_go_together(segmenter: Segmenter, paths: list[Path], batches: list[int]) -> None:
    list(segment_files(segmenter, paths, LoadConfig(batch_size=2)))
    assert batches == [2, 1, 1, 1, 2]


def test_large_images_go_alone(
    segmenter: Segmenter, paths: list[Path], batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "BATCH_PIXELS", 2 * 40 * 64)
    list(segment_files(segmenter, paths))
    assert batches == [1, 1, 1, 1, 1, 2]
    batches.clear()
    monkeypatch.setattr(many, "BATCH_PIXELS", 1)
    list(segment_files(segmenter, paths))
    assert batches == [1] * len(paths)


def test_a_large_image_waits_for_no_other(segmenter: Segmenter, paths: list[Path], monkeypatch: Any) -> None:
    asked: list[Path] = []

    def read(path: Path, *_: object) -> np.ndarray:
        asked.append(path)
        return np.array(Image.open(path))

    monkeypatch.setattr(many, "BATCH_PIXELS", 1)
    monkeypatch.setattr(many, "read_image", read)
    found = segment_files(segmenter, paths, LoadConfig(workers=0))
    next(found)
    assert asked == paths[:1]


def test_what_cant_be_used_comes_in_its_place(segmenter: Segmenter, paths: list[Path]) -> None:
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    save(paths[4], scene(4)[0][:3])
    found = list(segment_files(segmenter, [*paths, paths[0].with_name("none.png")]))
    for number, message in ((1, "can't be read as an image"), (4, "smaller than a patch"), (7, "no such image file")):
        assert isinstance(found[number], DataError)
        assert message in str(found[number])
        assert str(found[number]).count(f"{number}.png" if number < 7 else "none.png") == 1
    assert [number for number, result in enumerate(found) if isinstance(result, Segmentation)] == [0, 2, 3, 5, 6]


def test_a_batch_that_doesnt_fit_is_done_one_by_one(
    segmenter: Segmenter, paths: list[Path], batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = memory.patch_memory(segmenter.features.backbone, segmenter.features.config, 48)
    monkeypatch.setattr(memory, "free_memory", lambda: one)
    found = list(segment_files(segmenter, paths))
    assert all(isinstance(result, Segmentation) for result in found)
    assert batches == [3, 1, 1, 1, 1, 1, 2, 1, 1]


def test_those_before_a_fault_come_all_the_same(
    segmenter: Segmenter, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a batch fails of, it fails at the image that is at fault."""
    features = type(segmenter.features).__call__

    def failing(self: Any, images: torch.Tensor, names: list[str]) -> torch.Tensor:
        if str(paths[2]) in names:
            raise FungiSegError(f"{paths[2]}: the features (fungi) are not finite")
        return features(self, images, names)

    monkeypatch.setattr(type(segmenter.features), "__call__", failing)
    found: Iterator[Any] = segment_files(segmenter, paths)
    assert isinstance(next(found), Segmentation)
    assert isinstance(next(found), Segmentation)
    with pytest.raises(FungiSegError, match=r"2\.png: the features"):
        next(found)


def test_unknown_is_asked_for_without_a_calibration(segmenter: Segmenter, paths: list[Path]) -> None:
    with pytest.raises(FungiSegError, match="nothing is known of how sure classes are"):
        list(segment_files(segmenter, paths, unknown=0.5))


def test_nothing_to_do(segmenter: Segmenter) -> None:
    assert list(segment_files(segmenter, [])) == []
