"""Which patches enter a memory bank of bounded size."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings, strategies as st

from fungi_seg.bank.labels import SparseLabels
from fungi_seg.bank.rows import Table
from fungi_seg.bank.sampling import BalancedReservoir, patch_order


def random_histograms(seed: int, patches: int, classes: int = 4, labelled: float = 0.7) -> np.ndarray:
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 20, (patches, classes)) * (generator.random((patches, classes)) < 0.4)
    return counts * (generator.random((patches, 1)) < labelled)


def as_rows(histograms: np.ndarray, chosen: np.ndarray, image: int) -> Table:
    """Rows that tell by `source` and `box` which image and patch they are."""
    count = len(chosen)
    return Table(
        SparseLabels.from_histograms(histograms[chosen]),
        np.full(count, image, np.int32),
        np.zeros(count, np.int16),
        np.repeat(chosen[:, None], 4, 1).astype(np.float32),
    )


def kept_rows(stream: list[np.ndarray], size: int | None) -> tuple[list[tuple[int, int]], BalancedReservoir]:
    """`(image, patch)` of the rows that a reservoir keeps of a stream of histograms."""
    reservoir, parts = BalancedReservoir(size), []
    for image, histograms in enumerate(stream):
        chosen, priorities = reservoir.choose(histograms, np.random.default_rng(image))
        reservoir.add(priorities)
        parts.append((as_rows(histograms, chosen, image), priorities))
    limit = reservoir.limit()
    rows = Table.concatenate([rows.take(np.flatnonzero(priorities <= limit)) for rows, priorities in parts])
    for row, dense in zip(range(len(rows)), rows.labels.dense(4), strict=True):
        assert (dense > 0).any()
        assert not dense[stream[rows.source[row]][int(rows.box[row, 0])] == 0].any()
    return list(zip(rows.source.tolist(), rows.box[:, 0].astype(int).tolist(), strict=True)), reservoir


def sorted_at_the_end(stream: list[np.ndarray], size: int) -> list[tuple[int, int]]:
    """The same, of all candidates at once."""
    candidates = []
    for image, histograms in enumerate(stream):
        chosen, priorities = BalancedReservoir(None).choose(histograms, np.random.default_rng(image))
        candidates += [(float(p), (image, int(patch))) for p, patch in zip(priorities, chosen, strict=True)]
    best = {row for _, row in sorted(candidates)[:size]}
    return [row for _, row in candidates if row in best]


def streams(most: int) -> st.SearchStrategy[list[np.ndarray]]:
    image = st.builds(
        random_histograms, st.integers(0, 999), st.integers(1, most), labelled=st.sampled_from([0, 0.5, 1])
    )
    return st.lists(image, min_size=1, max_size=8)


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 60))
def test_patch_order_follows_the_rule(seed: int, patches: int) -> None:
    histograms = random_histograms(seed, patches)
    uniform = np.random.default_rng(seed).random(patches)
    scores = {}
    for patch in range(patches):
        classes = [c for c in range(4) if histograms[patch, c] > 0]
        frequency = sum(sum(histograms[other, c] > 0 for other in range(patches)) for c in classes)
        if classes:
            scores[patch] = frequency * uniform[patch]
    found = patch_order(histograms, np.random.default_rng(seed))
    assert found.tolist() == sorted(scores, key=scores.__getitem__)


def test_rare_classes_come_first() -> None:
    histograms = np.zeros((1000, 2), np.int64)
    histograms[:, 0] = 1
    histograms[:10] = 0, 1
    order = patch_order(histograms, np.random.default_rng(0))
    assert np.isin(np.arange(10), order[:100]).all()


def test_order_without_labels_is_empty() -> None:
    assert patch_order(np.zeros((9, 3), np.int64), np.random.default_rng(0)).tolist() == []


@settings(deadline=None)
@given(streams(40), st.integers(1, 120))
def test_fills_exactly_and_in_stream_order(stream: list[np.ndarray], size: int) -> None:
    found, reservoir = kept_rows(stream, size)
    available = sum(int(h.any(1).sum()) for h in stream)
    assert reservoir.available == available
    assert len(found) == len(set(found)) == min(size, available)
    assert found == sorted_at_the_end(stream, size)


@settings(deadline=None)
@given(streams(30), st.integers(1, 100))
def test_quotas_are_even(stream: list[np.ndarray], size: int) -> None:
    """An image with fewer rows than another has given all it has, but for a difference of one."""
    found, _ = kept_rows(stream, size)
    counts = Counter(image for image, _ in found)
    largest = max(counts.values(), default=0)
    for image, histograms in enumerate(stream):
        assert counts[image] >= min(largest - 1, int(histograms.any(1).sum()))


def test_pruning_drops_nothing_that_belongs() -> None:
    """Small images that come after the pruning still give all they have."""
    stream = [random_histograms(seed, count) for seed, count in enumerate([1500] * 5 + [60] * 3)]
    found, _ = kept_rows(stream, 300)
    assert found == sorted_at_the_end(stream, 300)
    counts = Counter(image for image, _ in found)
    for image in (5, 6, 7):
        assert counts[image] == stream[image].any(1).sum()


def test_pruning_on_the_way_changes_nothing() -> None:
    stream = [random_histograms(seed, 1500 + 50 * seed) for seed in range(12)]
    reservoir = BalancedReservoir(300)
    passed = []
    for image, histograms in enumerate(stream):
        chosen, priorities = reservoir.choose(histograms, np.random.default_rng(image))
        reservoir.add(priorities)
        passed.append(len(chosen))
    assert passed[-1] < 100 < passed[0]  # it has been pruned, and knows what can't get in any more
    assert reservoir.available == sum(int(h.any(1).sum()) for h in stream)
    found, _ = kept_rows(stream, 300)
    assert found == sorted_at_the_end(stream, 300)
    counts = Counter(image for image, _ in found)
    assert set(counts.values()) == {25}


def test_nothing_to_keep() -> None:
    found, reservoir = kept_rows([np.zeros((4, 4), np.int64)], 5)
    assert found == []
    assert reservoir.available == 0


def test_without_a_size_all_is_kept() -> None:
    stream = [random_histograms(seed, 50) for seed in range(3)]
    found, _ = kept_rows(stream, None)
    assert sorted(found) == [(i, p) for i, h in enumerate(stream) for p in np.flatnonzero(h.any(1)).tolist()]
