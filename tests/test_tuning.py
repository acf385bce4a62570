"""Tuning of lists holds its recall for new images, whatever the bank holds besides what looks like them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from fungi_seg.search import tuning
from fungi_seg.search.exact import exact_search, share_found
from fungi_seg.search.integer_lists import IntegerLists
from fungi_seg.search.lists import CodedLists, Effort, ListSearch, encoded, train_coder
from fungi_seg.search.tuning import tune

KINDS = ("codes", "integers")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@cache
def passes(images: int, patches: int, times: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys of a bank that went over its images several times, changed a little each time; images; new images' patches.

    Patches lie around 50 centres, those of an image apart from those of others.
    """
    generator = np.random.default_rng(0)
    centres, looks = generator.normal(size=(50, 96)), 0.7 * generator.normal(size=(images + 20, 96))
    of_image = np.repeat(np.arange(images + 20), patches)
    rows = centres[generator.integers(50, size=len(of_image))] + looks[of_image]
    rows = unit(rows + 0.7 * generator.normal(size=rows.shape))
    seen = of_image < images
    copies = [unit(rows[seen] + 0.03 * generator.normal(size=rows[seen].shape)) for _ in range(times)]
    return np.concatenate(copies).astype(np.float16), np.tile(of_image[seen], times), rows[~seen][:200]


@cache
def lists_of(kind: str, images: int, patches: int, times: int) -> ListSearch:
    keys = passes(images, patches, times)[0]
    coder = train_coder(keys)
    return IntegerLists(coder, keys) if kind == "integers" else CodedLists(coder, encoded(coder, keys))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bank", [(40, 10, 40), (5, 200, 12)])
def test_copies_of_images_do_not_make_it_look_easy(kind: str, bank: tuple[int, int, int]) -> None:
    """Of each patch the bank holds many, far apart: by those alone, one list and few candidates would do."""
    (keys, groups, queries), index = passes(*bank), lists_of(kind, *bank)
    truth = np.argsort(-(queries @ keys.astype(np.float32).T), axis=1, kind="stable")[:, :30]
    effort, reached = tune(index, keys, 0.95, groups)
    assert reached >= 0.95
    assert share_found(truth, index.search(queries, keys, 30, effort)[1]) >= 0.95


def test_copies_that_are_taken_for_other_images_would() -> None:
    """What the test above guards against is there."""
    (keys, _, queries), index = passes(40, 10, 40), lists_of("codes", 40, 10, 40)
    truth = np.argsort(-(queries @ keys.astype(np.float32).T), axis=1, kind="stable")[:, :30]
    pretended = np.arange(len(keys)) // 10
    effort, reached = tune(index, keys, 0.9, pretended)
    assert reached >= 0.9
    assert share_found(truth, index.search(queries, keys, 30, effort)[1]) < 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_rows_left_out_are_no_candidates(kind: str) -> None:
    """All others of the lists searched are; equal ones may be cut in another order."""
    keys, groups, queries = passes(40, 10, 40)
    index, left_out = lists_of(kind, 40, 10, 40), groups % 3 == 0
    every = index.candidates(queries, len(keys), 3)
    found = index.candidates(queries, 40, 3, left_out)
    there = [line[(line >= 0) & ~left_out[line]][:40] for line in every]
    assert min(map(len, there)) == 40
    assert share_found(np.array(there), found) > 0.999
    assert not left_out[found].any()
    none = index.candidates(queries, 7, 3, np.ones(len(keys), bool))
    assert (none == -1).all()


def test_groups_left_out_of_exact_search() -> None:
    keys, groups, queries = passes(40, 50, 1)
    left_out = np.random.default_rng(0).random((700, 40)) < 0.4
    queries = np.resize(queries, (700, queries.shape[1]))
    products = queries @ keys.astype(np.float32).T
    products[left_out[:, groups]] = -np.inf
    similarities, rows = exact_search(keys, queries, 5, left_out, groups)
    np.testing.assert_allclose(similarities, -np.sort(-products, axis=1)[:, :5], atol=1e-5)
    assert not np.take_along_axis(left_out, groups[rows], axis=1).any()
    assert np.isneginf(exact_search(keys[:9], queries[:2], 9, left_out[:2] | True, groups[:9])[0]).all()


@pytest.mark.parametrize(
    "groups",
    [np.full(2000, 3), np.where(np.arange(2000) < 1900, 0, np.arange(2000))],
    ids=["one image", "one image of nearly all rows"],
)
def test_images_that_leave_too_little_of_a_bank(groups: np.ndarray) -> None:
    """One isn't tried; where it is the only one, runs of rows are."""
    keys, queries = passes(40, 50, 1)[0], passes(40, 50, 1)[2]
    index = lists_of("integers", 40, 50, 1)
    effort, _ = tune(index, keys, 0.9, groups)
    truth = np.argsort(-(queries @ keys.astype(np.float32).T), axis=1, kind="stable")[:, :30]
    assert share_found(truth, index.search(queries, keys, 30, effort)[1]) >= 0.9
    assert (effort == tune(index, keys, 0.9)[0]) or len(np.unique(groups)) > 1


@pytest.mark.parametrize(("images", "each"), [(2, 5), (3, 1), (2000, 1), (500, 2)])
def test_few_images_and_small_ones(images: int, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them halve the bank; of many with few rows, no more than some are tried."""
    keys = passes(40, 50, 1)[0][: images * each]
    index = IntegerLists(train_coder(keys, min(4, len(keys))), keys)
    asked: list[int] = []
    real = index.candidates
    monkeypatch.setattr(index, "candidates", lambda queries, *more: asked.append(len(queries)) or real(queries, *more))
    effort, reached = tune(index, keys, 1.0, np.repeat(np.arange(images), each), k=2)
    assert reached == 1
    assert isinstance(effort, Effort)
    assert max(asked) <= each
    assert len(asked) <= len(tuning.NPROBES) * tuning.MOST_IMAGES
