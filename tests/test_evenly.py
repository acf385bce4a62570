"""A part of a data set, taken at even distances."""

from __future__ import annotations

import numpy as np
import pytest
from trees import folder_tree

from fungi_seg import DataConfig, DataError, Dataset, open_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten images, `train_0` to `train_9`."""
    root = folder_tree(tmp_path_factory.mktemp("data") / "tree", train=10, val=0)
    return open_dataset(DataConfig(root=str(root), split="train"))


def numbers(dataset: Dataset) -> list[int]:
    return [int(item.id.removeprefix("train_")) for item in dataset.items]


@pytest.mark.parametrize("count", range(1, 11))
def test_even_distances(dataset: Dataset, count: int) -> None:
    """In order, at distances that differ by one at most, as far from the first as from the last."""
    chosen = numbers(dataset.evenly(count))
    assert len(chosen) == count
    assert chosen == sorted(set(chosen))
    if count > 1:
        distances = np.diff(chosen)
        assert distances.max() - distances.min() <= 1
    assert abs(chosen[0] - (9 - chosen[-1])) <= 1


def test_examples(dataset: Dataset) -> None:
    assert numbers(dataset.evenly(1)) == [5]
    assert numbers(dataset.evenly(2)) == [2, 7]
    assert numbers(dataset.evenly(5)) == [1, 3, 5, 7, 9]
    assert dataset.evenly(10).items == dataset.items


def test_the_rest_stays(dataset: Dataset) -> None:
    part = dataset.evenly(3)
    assert part.reading == dataset.reading
    np.testing.assert_array_equal(part.palette, dataset.palette)
    number = numbers(part)[1]
    np.testing.assert_array_equal(part[1].mask, dataset[number].mask)
    assert part[1].id == f"train_{number}"
    assert len(dataset) == 10


@pytest.mark.parametrize("count", [0, -1, 11, 1000])
def test_counts_that_there_are_not(dataset: Dataset, count: int) -> None:
    with pytest.raises(DataError, match=rf"^{count} images asked for; it must be between 1 and 10, the images there"):
        dataset.evenly(count)
