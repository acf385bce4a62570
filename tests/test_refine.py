"""Class scores that follow the edges of the image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from fungi_seg import DecoderConfig, FungiSegError
from fungi_seg.segmentation import refine
from fungi_seg.segmentation.decoder import highest, refined_label_map, upsample
from fungi_seg.segmentation.refine import EPSILON, FINER, RADIUS, Guide, refined_strips


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 9 + 2, width // 9 + 2, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def windows(values: np.ndarray) -> np.ndarray:
    """Each place's square of neighbours, the border mirrored: `[h, w, (2r + 1)², …]` float64."""
    around = ((RADIUS, RADIUS), (RADIUS, RADIUS), *[(0, 0)] * (values.ndim - 2))
    padded = np.pad(values.astype(np.float64), around, mode="symmetric")
    h, w = values.shape[:2]
    return np.array(
        [
            [padded[y : y + 2 * RADIUS + 1, x : x + 2 * RADIUS + 1].reshape(-1, *values.shape[2:]) for x in range(w)]
            for y in range(h)
        ]
    )


def guided_by_loop(image: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The guided filter as its paper states it: a ridge regression in every window, and the mean of all of them."""
    colours, values = windows(image), windows(scores)
    slopes, offsets = np.zeros(image.shape), np.zeros(scores.shape)
    for y, x in np.ndindex(*scores.shape):
        c, v = colours[y, x], values[y, x]
        centred = c - c.mean(0)
        slopes[y, x] = np.linalg.solve(centred.T @ centred / len(c) + EPSILON * np.eye(3), centred.T @ v / len(v))
        offsets[y, x] = v.mean() - slopes[y, x] @ c.mean(0)
    return (windows(slopes).mean(2) * image).sum(-1) + windows(offsets).mean(2)


def test_the_filter_is_a_regression_in_every_window() -> None:
    image = picture(21, 26).astype(np.float32) / 255
    scores = np.random.default_rng(1).random((21, 26)).astype(np.float32)
    np.testing.assert_allclose(Guide(image).filtered(scores), guided_by_loop(image, scores), atol=2e-4)


def test_strength_0_is_bilinear_on_the_finer_grid_and_1_the_filter() -> None:
    image, scores = picture(60, 80), torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0))
    fine = (6 * FINER, 8 * FINER)
    rough = upsample(scores, fine)
    guide = cv2.resize(image, fine[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    filtered = torch.stack([torch.from_numpy(Guide(guide).filtered(one.numpy())) for one in rough])
    for strength in (0.0, 0.4, 1.0):
        found = torch.cat(list(refined_strips(scores, image, (6.0, 8.0), strength)), 1)
        expected = upsample(torch.lerp(rough, filtered, strength), (60, 80))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("covered", [(12.0, 9.0), (11.3, 8.6), (0.7, 0.9)])
def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch, covered: tuple[float, float]) -> None:
    image, scores = picture(157, 121), torch.rand(4, 12, 9, generator=torch.Generator().manual_seed(1))
    whole = torch.cat(list(refined_strips(scores, image, covered, 1.0)), 1)
    assert whole.shape == (4, 157, 121)
    monkeypatch.setattr(refine, "PIECE_VALUES", 32 * 36 * 5)
    monkeypatch.setattr(refine, "STRIP_VALUES", 4 * 121 * 3)
    strips = list(refined_strips(scores, image, covered, 1.0))
    assert len(strips) > 20
    torch.testing.assert_close(torch.cat(strips, 1), whole, atol=1e-6, rtol=0)


def test_a_mask_follows_the_edge_that_patches_miss() -> None:
    truth = np.zeros((64, 64), np.int64)
    truth[:, 27:] = 1  # not where a patch of 8 ends
    image = np.where(truth[..., None] > 0, 200, 40).astype(np.uint8).repeat(3, 2)
    shares = torch.from_numpy(truth.reshape(8, 8, 8, 8).mean((1, 3))).float()
    scores = torch.stack([1 - shares, shares])
    assert (refined_label_map(scores, image, (8.0, 8.0), 1.0)[0] == truth).all()


def test_classes_that_come_near_nowhere_change_no_mask() -> None:
    image, scores = picture(64, 64), torch.rand(40, 8, 8, generator=torch.Generator().manual_seed(2)) * 0.1
    scores[3], scores[17] = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(3)) + 0.5
    every = torch.cat(list(refined_strips(scores, image, (8.0, 8.0), 1.0)), 1)
    assert (refined_label_map(scores, image, (8.0, 8.0), 1.0)[0] == every.argmax(0).numpy()).all()


def test_a_patch_without_a_score_is_an_error() -> None:
    scores = torch.ones(3, 4, 4)
    scores[:, 1, 2] = 0
    with pytest.raises(FungiSegError, match=r"1 of 16 patches have no class with a score above 0"):
        refined_label_map(scores, picture(32, 32), (4.0, 4.0), 1.0)


def test_one_class_alone_fills_the_mask() -> None:
    scores = torch.zeros(300, 4, 4)
    scores[280] = 1
    mask = refined_label_map(scores, picture(32, 32), (4.0, 4.0), 1.0)[0]
    assert mask.dtype == np.uint16
    assert (mask == 280).all()


@pytest.mark.parametrize("classes", [1, 2, 256, 257, 400])
def test_the_highest_is_the_first_of_those_that_are_equal(classes: int) -> None:
    scores = np.random.default_rng(0).integers(-3, 4, (classes, 11, 13)).astype(np.float32)
    scores[-1, 0] = 9
    found, best = highest(scores)
    assert (found == scores.argmax(0)).all()
    assert (best == scores.max(0)).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"refine": 1.5}, "decoder.refine is 1.5; it must be 0 to 1"),
        ({"gradient_weight": -0.1}, "decoder.gradient_weight is -0.1"),
        ({"class_share": 3}, "decoder.class_share is 3"),
        ({"ridge": "linear", "ridge_share": 0.5}, "decoder.ridge is 'linear'"),
        ({"ridge": "token"}, "name a regression and a share above 0"),
        ({"ridge_share": 0.5}, "name a regression and a share above 0"),
        ({"ridge_penalty": 0}, "decoder.ridge_penalty is 0"),
    ],
)
def test_settings_have_rules(settings: dict[str, object], words: str) -> None:
    with pytest.raises(FungiSegError) as error:
        DecoderConfig(**settings)  # type: ignore[arg-type]
    assert words in str(error.value)
