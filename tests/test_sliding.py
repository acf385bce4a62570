"""Patches of earlier frames that vote beside the bank's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip
from stacks import scenes, write_stack

from fungi_seg import DataError, FungiSegError, LoadConfig, MemoryBank, Segmenter
from fungi_seg.bank import FULL, SparseLabels
from fungi_seg.images import read_image
from fungi_seg.results import ResultsConfig, VideoConfig, find_images, segment_to_folder
from fungi_seg.segmentation import DecoderConfig, Segmentation, segment_files
from fungi_seg.segmentation.sliding import MOST, SURE, Neighbours, SlidingBank

CLASSES, K, T = 3, 5, 0.1


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    values = generator.normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def as_stored(labels: SparseLabels, classes: int) -> np.ndarray:
    """`[M, C]` class distributions as a bank keeps them, in few bits."""
    dense = np.zeros((len(labels), classes))
    owner, entries = labels.entries(np.arange(len(labels)))
    np.add.at(dense, (owner, labels.ids[entries]), labels.weights[entries] / FULL)
    return dense


def brute_force(
    query: np.ndarray, rows: np.ndarray, labels: np.ndarray, k: int, temperature: float, scale: np.ndarray
) -> np.ndarray:
    """Votes of the nearest of all rows, one query at a time."""
    similarities = rows @ (query * scale)
    order = np.argsort(-similarities, kind="stable")[:k]
    weights = np.exp((similarities[order] - similarities[order].max()) / temperature)
    return (weights / weights.sum()) @ labels[order]


@pytest.mark.parametrize("scaled", [False, True])
def test_votes_are_those_of_all_rows_together(scaled: bool) -> None:
    generator = np.random.default_rng(4)
    rows, histograms = unit(generator, 60, 8), generator.integers(0, 5, (60, CLASSES)) + np.eye(CLASSES, dtype=int)[0]
    labels = SparseLabels.from_histograms(histograms)
    dense = as_stored(labels, CLASSES)
    scale = np.repeat(np.float32([1.6, 0.4]), 4) if scaled else np.ones(8, np.float32)
    memory = SlidingBank(2, scale if scaled else None)
    every, known = rows, dense
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(4):
        queries = unit(generator, 30, 8)
        similarities = (queries * scale) @ rows.T
        order = np.argsort(-similarities, axis=1)[:, :K]
        near = Neighbours(np.take_along_axis(similarities, order, 1), order)
        votes = memory.votes(queries, near, labels, CLASSES, T)
        expected = np.stack([brute_force(query, every, known, K, T, scale) for query in queries])
        assert votes == pytest.approx(expected, abs=1e-5)
        assert votes.sum(1) == pytest.approx(1, abs=1e-5)
        sure = generator.random(30)
        memory.keep(sure)
        kept = [*kept, (queries[sure >= SURE], votes[sure >= SURE])][-2:]
        every = np.concatenate([rows, *(features for features, _ in kept)])
        known = np.concatenate([dense, *(found for _, found in kept)])
        assert len(memory) == sum(len(features) for features, _ in kept)


def test_of_many_sure_patches_some_are_kept_evenly() -> None:
    memory, labels = SlidingBank(1), SparseLabels.from_histograms(np.array([[1, 0, 0]]))
    queries = np.arange(4 * MOST, dtype=np.float32)[:, None]
    near = Neighbours(np.ones((len(queries), 1), np.float32), np.zeros((len(queries), 1), np.int64))
    memory.votes(queries, near, labels, CLASSES, T)
    memory.keep(np.where(np.arange(len(queries)) % 2, 1.0, 0.0))
    assert len(memory) == MOST
    ((features, _),) = memory._kept
    assert (features.ravel() % 2 == 1).all()
    assert set(np.diff(features.ravel())) <= {4.0, 6.0}


def predicted(segmenter: Segmenter, paths: Sequence[Path], memory: int) -> list[Segmentation]:
    found = list(segment_files(segmenter, paths, memory=memory))
    assert not any(isinstance(one, DataError) for one in found)
    return found  # type: ignore[return-value]


def by_hand(segmenter: Segmenter, paths: Sequence[Path], frames: int) -> list[np.ndarray]:
    """Scores of patches, by all keys and what was found before, without an index."""
    bank, k, temperature = segmenter.bank, segmenter.decoder.k, segmenter.decoder.temperature
    keys = np.asarray(bank.rows.keys, np.float32)
    dense = as_stored(bank.rows.labels, len(bank.info.classes))
    before: list[tuple[np.ndarray, np.ndarray]] = []
    results = []
    for path in paths:
        fitted = segmenter.fit(read_image(path))
        queries = segmenter.features.of([fitted])[0].cpu().numpy().reshape(-1, keys.shape[1])
        rows = np.concatenate([keys, *(f for f, _ in before)])
        labels = np.concatenate([dense, *(v for _, v in before)])
        votes = np.stack([brute_force(q, rows, labels, k, temperature, np.ones(keys.shape[1])) for q in queries])
        sure = np.flatnonzero(votes.max(1) >= SURE)
        before = [*before, (queries[sure], votes[sure])][-frames:]
        results.append(votes)
    return results


@pytest.fixture
def clip(tmp_path: Path) -> list[Path]:
    path = write_clip(tmp_path / "clip.mkv", list(scenes(6, first=70)[0]))
    return list(find_images([str(path)]).values())


@pytest.fixture(scope="module")
def segmenter(bank: MemoryBank) -> Segmenter:
    return Segmenter(bank, decoder=DecoderConfig(k=5))


def test_frames_before_vote_too(segmenter: Segmenter, clip: list[Path]) -> None:
    expected = by_hand(segmenter, clip, 2)
    found = predicted(segmenter, clip, 2)
    for one, votes in zip(found, expected, strict=True):
        scores = one.patch_scores.permute(1, 2, 0).reshape(-1, 3).numpy()
        assert scores == pytest.approx(votes, abs=3e-3)
    alone = predicted(segmenter, clip, 0)
    assert any((a.patch_scores != b.patch_scores).any() for a, b in zip(alone, found, strict=True))


def test_without_a_memory_frames_are_left_to_the_bank(segmenter: Segmenter, clip: list[Path]) -> None:
    for one, path in zip(predicted(segmenter, clip, 0), clip, strict=True):
        assert (one.mask == segmenter.predict(read_image(path)).mask).all()


def test_each_clip_begins_anew(segmenter: Segmenter, clip: list[Path], tmp_path: Path) -> None:
    other = write_clip(tmp_path / "other.mkv", list(scenes(3, first=90)[0]))
    paths = [*clip, *find_images([str(other)]).values()]
    both, alone = predicted(segmenter, paths, 4), predicted(segmenter, paths[len(clip) :], 4)
    for one, same in zip(both[len(clip) :], alone, strict=True):
        assert (one.patch_scores == same.patch_scores).all()


def test_each_height_of_a_stack_has_its_own_memory(segmenter: Segmenter, tmp_path: Path) -> None:
    path = write_stack(tmp_path / "cells.tif", scenes(3, 2, first=30)[0], "TZ")
    images = find_images([str(path)])
    together = dict(zip(images, predicted(segmenter, list(images.values()), 3), strict=True))
    for z in range(2):
        names = [f"cells[t={t},z={z}]" for t in range(3)]
        for name, alone in zip(names, predicted(segmenter, [images[n] for n in names], 3), strict=True):
            assert (together[name].patch_scores == alone.patch_scores).all()


def test_planes_along_z_are_no_frames(segmenter: Segmenter, tmp_path: Path) -> None:
    images = find_images([str(write_stack(tmp_path / "cells.tif", scenes(3)[0], "Z"))])
    paths = list(images.values())
    for one, same in zip(predicted(segmenter, paths, 3), predicted(segmenter, paths, 0), strict=True):
        assert (one.patch_scores == same.patch_scores).all()


def test_padding_is_not_remembered(bank: MemoryBank) -> None:
    segmenter = Segmenter(bank, decoder=DecoderConfig(k=5)).entering(replace(bank.info.input, fit="pad"))
    memory = segmenter.memory(2)
    image = scenes(1)[0][0][:41, :50]
    fitted = segmenter.fit(image)
    segmenter.predict_fitted([fitted], [image], memory=memory)
    grid = [-(-side // patch) for side, patch in zip(image.shape, segmenter.features.backbone.patch_size, strict=False)]
    assert 0 < len(memory) <= grid[0] * grid[1]


def test_a_clip_is_done_anew_as_a_whole(segmenter: Segmenter, clip: list[Path], tmp_path: Path) -> None:
    """So that what a stopped run left gives what one run gives."""
    images = find_images([str(clip[0].with_name("clip.mkv"))])
    config = ResultsConfig(report=False, video=VideoConfig(memory=3))
    segment_to_folder(segmenter, images, tmp_path / "one", config)
    segment_to_folder(segmenter, dict(list(images.items())[:3]), tmp_path / "two", config)
    again = segment_to_folder(segmenter, images, tmp_path / "two", config)
    assert (again.segmented, again.total) == (6, 6)
    for name in images:
        files = [tmp_path / run / "masks" / f"{name}.png" for run in ("one", "two")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert segment_to_folder(segmenter, images, tmp_path / "two", config).segmented == 0
    with pytest.raises(FungiSegError, match=r"video\.memory: 3 there, 2 now"):
        segment_to_folder(segmenter, images, tmp_path / "two", replace(config, video=VideoConfig(memory=2)))


def test_a_memory_that_nothing_would_use(segmenter: Segmenter, tmp_path: Path, photo: Path) -> None:
    config = ResultsConfig(report=False, video=VideoConfig(memory=3))
    with pytest.raises(FungiSegError, match=r"video\.memory is 3, but none of the images is a frame"):
        segment_to_folder(segmenter, find_images([str(photo)]), tmp_path / "out", config)


def test_batches_and_readers_change_nothing(segmenter: Segmenter, clip: list[Path]) -> None:
    one = predicted(segmenter, clip, 2)
    other = list(segment_files(segmenter, clip, LoadConfig(batch_size=8, workers=0), memory=2))
    for a, b in zip(one, other, strict=True):
        assert isinstance(b, Segmentation)
        assert (a.patch_scores == b.patch_scores).all()
