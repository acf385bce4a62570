"""The vote of neighbours and the upsampling of class scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from fungi_seg import DecoderConfig, FungiSegError
from fungi_seg.bank.labels import SparseLabels
from fungi_seg.search.weights import neighbour_weights
from fungi_seg.segmentation import decoder
from fungi_seg.segmentation.decoder import label_map, upsample, vote


def random_scores(classes: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(classes, height, width, generator=torch.Generator().manual_seed(seed)) + 0.01


def random_labels(rows: int, classes: int, seed: int = 0) -> SparseLabels:
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 20, (rows, classes)) * (generator.random((rows, classes)) < 0.4)
    counts[np.arange(rows), generator.integers(classes, size=rows)] += 1
    return SparseLabels.from_histograms(counts)


def full_upsampling(scores: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]


def assert_highest(chosen: np.ndarray, scores: torch.Tensor) -> None:
    """Each pixel's class has its highest score, up to rounding."""
    assert chosen.shape == tuple(scores.shape[1:])
    taken = scores.gather(0, torch.from_numpy(chosen.astype(np.int64))[None])[0]
    assert (taken >= scores.amax(0) - 1e-5).all()


@pytest.mark.parametrize("temperature", [0.02, 0.1])
def test_reference_votes(reference: dict[str, np.ndarray], temperature: float) -> None:
    queries, keys, labels = (torch.from_numpy(reference[f"vote/{name}"]) for name in ("queries", "keys", "labels"))
    cosines = torch.einsum("bqd,bqkd->bqk", F.normalize(queries, dim=-1), F.normalize(keys, dim=-1))
    weights = neighbour_weights(cosines.flatten(0, 1).numpy(), temperature)
    votes = np.einsum("qk,qkc->qc", weights, labels.flatten(0, 1).numpy())
    expected = reference[f"vote/beta_{temperature}"].reshape(votes.shape)
    np.testing.assert_allclose(votes, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("classes", "k"), [(2, 1), (7, 5), (300, 9)])
def test_vote_is_a_weighted_sum_of_labels(classes: int, k: int) -> None:
    generator = np.random.default_rng(k)
    labels = random_labels(40, classes)
    similarities = generator.uniform(-1, 1, (11, k)).astype(np.float32)
    rows = generator.integers(40, size=(11, k))
    dense = labels.dense(classes)
    expected = np.zeros((11, classes))
    for q in range(11):
        powers = [np.exp(float(s) / 0.1) for s in similarities[q]]
        for power, row in zip(powers, rows[q], strict=True):
            expected[q] += power / sum(powers) * dense[row]
    votes = vote(similarities, rows, labels, classes, 0.1)
    assert votes.dtype == np.float32
    np.testing.assert_allclose(votes, expected, atol=1e-5)
    np.testing.assert_allclose(votes.sum(1), 1, atol=1e-5)


def test_neighbours_that_were_not_found_have_no_vote() -> None:
    labels = SparseLabels.from_histograms(np.array([[1, 0], [0, 1]]))
    votes = vote(np.array([[0.5, -np.inf]], np.float32), np.array([[1, 0]]), labels, 2, 0.02)
    np.testing.assert_allclose(votes, [[0, 1]])


def test_cold_votes_follow_the_nearest_and_do_not_overflow() -> None:
    weights = neighbour_weights(np.array([[0.9, 0.8, -1.0]], np.float32), 1e-6)
    np.testing.assert_allclose(weights, [[1, 0, 0]])


@settings(deadline=None, max_examples=60)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    classes=st.integers(1, 4),
)
def test_upsample_is_bilinear_interpolation(grid: tuple[int, int], size: tuple[int, int], classes: int) -> None:
    scores = random_scores(classes, *grid)
    torch.testing.assert_close(upsample(scores, size), full_upsampling(scores, size), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(size=st.tuples(st.integers(1, 60), st.integers(1, 60)), patch=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_upsampling_of_a_padded_image_is_cropped(size: tuple[int, int], patch: tuple[int, int]) -> None:
    """An image padded at the right and the bottom to whole patches, and one more row of them."""
    grid = -(-size[0] // patch[0]) + 1, -(-size[1] // patch[1])
    scores = random_scores(2, *grid)
    padded = full_upsampling(scores, (grid[0] * patch[0], grid[1] * patch[1]))
    cropped = upsample(scores, size, covered=(size[0] / patch[0], size[1] / patch[1]))
    torch.testing.assert_close(cropped, padded[:, : size[0], : size[1]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strip_values", [1, 100, 1000, 4_000_000])
@pytest.mark.parametrize("covered", [None, (3.3, 4.6)])
def test_label_map_is_the_highest_score(
    monkeypatch: pytest.MonkeyPatch, strip_values: int, covered: tuple[float, float] | None
) -> None:
    monkeypatch.setattr(decoder, "STRIP_VALUES", strip_values)
    scores = random_scores(5, 4, 5)
    mask = label_map(scores, (31, 43), covered)
    assert mask.dtype == np.uint8
    assert_highest(mask, upsample(scores, (31, 43), covered))


@settings(deadline=None, max_examples=40)
@given(
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    classes=st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_label_map_of_any_size(grid: tuple[int, int], size: tuple[int, int], classes: int, seed: int) -> None:
    scores = random_scores(classes, *grid, seed)
    assert_highest(label_map(scores, size), full_upsampling(scores, size))


def test_classes_without_a_vote_keep_their_place() -> None:
    scores = torch.zeros(6, 2, 2)
    scores[1, 0], scores[4, 1] = 1.0, 1.0
    np.testing.assert_array_equal(label_map(scores, (4, 1))[:, 0], [1, 1, 4, 4])


@pytest.mark.parametrize(("classes", "dtype"), [(256, np.uint8), (257, np.uint16), (1000, np.uint16)])
def test_type_of_a_label_map_holds_every_class(classes: int, dtype: type) -> None:
    scores = torch.zeros(classes, 2, 2)
    scores[classes - 1] = 1.0
    mask = label_map(scores, (6, 6))
    assert mask.dtype == dtype
    assert (mask == classes - 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "decoder.k is 0; it must be at least 1"),
        ({"temperature": 0.0}, "decoder.temperature is 0.0; it must be a number above 0"),
        ({"temperature": float("nan")}, "decoder.temperature is nan; it must be a number above 0"),
        ({"temperature": float("inf")}, "decoder.temperature is inf; it must be a number above 0"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        DecoderConfig(**options)  # type: ignore[arg-type]


def test_neighbours_that_were_left_out_have_no_weight() -> None:
    np.testing.assert_array_equal(neighbour_weights(np.array([[0.9, -np.inf]], np.float32), 0.02), [[1, 0]])


@pytest.mark.parametrize("nobody", [-np.inf, np.nan])
def test_no_neighbour_means_no_class(nobody: float) -> None:
    labels = SparseLabels.from_histograms(np.array([[1, 0], [0, 1]]))
    similarities = np.array([[0.9, 0.5], [nobody, nobody]], np.float32)
    with pytest.raises(FungiSegError, match=r"1 of 2 patches have no neighbour .* \(similarities are (-inf|nan)\)"):
        vote(similarities, np.zeros((2, 2), np.int64), labels, 2, 0.02)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_patch_without_a_vote_is_not_the_first_class(value: float) -> None:
    scores = random_scores(3, 2, 2)
    scores[:, 1, 0] = value
    with pytest.raises(FungiSegError, match="1 of 4 patches have no class with a score above 0"):
        label_map(scores, (4, 4))
