"""Which image to annotate next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fungi_seg import DataConfig, FeatureConfig, InputConfig, PatchFeatures, load_backbone, open_dataset
from fungi_seg.annotating import Suggestion, suggest
from fungi_seg.bank import patch_histograms
from fungi_seg.images import fit_mask

EAST, NORTH, WEST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)
BETWEEN = (np.sqrt(0.5), np.sqrt(0.5))


def asked(doubt: list[float], embeddings: list[tuple[float, float]], annotated: list[int]) -> Suggestion | None:
    done = np.isin(np.arange(len(doubt)), annotated)
    return suggest(np.array(doubt), np.array(embeddings, np.float32), done)


def test_doubt_times_distance_decides() -> None:
    found = asked([0.0, 0.9, 0.3, 0.2], [EAST, EAST, NORTH, BETWEEN], [0])
    assert found == Suggestion(
        2, "its classes are in doubt (30 % on average), and it looks unlike the annotated image (similarity 0.00)"
    )
    found = asked([0.0, 0.9, 0.05, 0.5], [EAST, EAST, NORTH, BETWEEN], [0])
    assert found == Suggestion(
        3,
        "its classes are in doubt (50 % on average), and it looks not quite like the annotated image (similarity 0.71)",
    )


def test_the_nearest_of_the_annotated_images_counts() -> None:
    found = asked([0.0, 0.0, 0.5, 0.4, 0.5], [EAST, NORTH, NORTH, WEST, BETWEEN], [0, 1])
    assert found == Suggestion(
        3, "its classes are in doubt (40 % on average), and it looks unlike the 2 annotated images (similarity 0.00)"
    )


@pytest.mark.parametrize("seed", range(20))
def test_as_by_a_loop(seed: int) -> None:
    generator = np.random.default_rng(seed)
    embeddings = generator.normal(size=(30, 5))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    doubt, done = generator.random(30), generator.random(30) < 0.3
    done[0] = True
    best, found = -1.0, -1
    for i in range(30):
        if not done[i]:
            nearest = max(float(embeddings[i] @ embeddings[j]) for j in range(30) if done[j])
            if doubt[i] * (1 - nearest) > best:
                best, found = doubt[i] * (1 - nearest), i
    suggested = suggest(doubt, embeddings, done)
    assert suggested
    assert suggested.index == found


def test_the_most_usual_image_comes_first() -> None:
    found = asked([0.1, 0.2, 0.9], [EAST, BETWEEN, NORTH], [])
    assert found == Suggestion(1, "it is the most like all 3 images together, a good one to begin with")


def test_without_any_doubt_what_is_unlike_comes_next() -> None:
    found = asked([0.0, 0.0, 0.0], [EAST, BETWEEN, NORTH], [0])
    assert found
    assert found.index == 2


def test_images_that_were_not_segmented_yet() -> None:
    unknown = float("nan")
    found = asked([0.0, 0.4, unknown, 0.6], [EAST, NORTH, WEST, BETWEEN], [0])
    assert found == Suggestion(2, "it wasn't segmented yet, and it looks unlike the annotated image (similarity -1.00)")
    found = asked([unknown] * 3, [EAST, BETWEEN, NORTH], [0])
    assert found
    assert found.index == 2


def test_no_image_is_left() -> None:
    assert asked([0.5], [EAST], [0]) is None
    assert suggest(np.empty(0), np.empty((0, 2)), np.empty(0, bool)) is None


@pytest.mark.data
def test_suggested_images_teach_more_than_random_ones(real_data: Path) -> None:
    """Nuclei: eight images annotated in turn, and the nucleus found in patches of the others by votes of theirs."""
    data = open_dataset(DataConfig(root=str(real_data / "nuclei"), split="train"))
    backbone = load_backbone("embedded")
    features, entered = PatchFeatures(backbone, FeatureConfig(kind="plain")), InputConfig(size=256)
    generator = np.random.default_rng(0)
    keys, labels, means = [], [], []
    for index in range(len(data)):
        sample = data[index]
        found = features(features.fit_image(sample.image, entered).image[None])[0].float().numpy()
        shares = patch_histograms(fit_mask(sample.mask, entered, backbone.patch_size), backbone.patch_size, 2)
        chosen = generator.permutation(np.flatnonzero(shares.sum(1)))[:100]
        keys.append(torch.nn.functional.normalize(torch.from_numpy(found[chosen])))
        labels.append(torch.from_numpy(shares[chosen] / shares[chosen].sum(1, keepdims=True)).float())
        means.append(found.mean(0) / np.linalg.norm(found.mean(0)))
    every, truth, embeddings = torch.stack(keys), torch.stack(labels), np.stack(means)

    def taught(choose: Callable[[np.ndarray, np.ndarray], int]) -> float:
        """IoU of nucleus in images that aren't annotated, once eight are."""
        done, doubt = np.zeros(len(keys), bool), np.full(len(keys), np.nan)
        for _ in range(8):
            done[choose(doubt, done)] = True
            near, rows = (every.flatten(0, 1) @ every[done].flatten(0, 1).T).topk(30)
            votes = (torch.softmax(near / 0.02, 1)[..., None] * truth[done].flatten(0, 1)[rows]).sum(1)
            sure = votes.amax(1) * near[:, 0].clip(0, 1)
            doubt = (1 - sure.view(len(keys), -1).mean(1)).numpy()
        said, own = votes.view(*truth.shape)[~done].argmax(2), truth[~done]
        both = own[..., 1][said == 1].sum()
        return float(both / (own[..., 1].sum() + own[..., 0][said == 1].sum()))

    def suggested(doubt: np.ndarray, done: np.ndarray) -> int:
        found = suggest(doubt, embeddings, done)
        assert found
        return found.index

    drawn = np.random.default_rng(1)
    by_chance = [taught(lambda _, done: int(drawn.choice(np.flatnonzero(~done)))) for _ in range(8)]
    assert taught(suggested) > np.mean(by_chance)
