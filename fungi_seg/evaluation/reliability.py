"""Whether confidence is worth what it says: calibration error, and errors among the pixels that are kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from fungi_seg.images import VOID

BINS = 15
FINER = 100  # parts of a bin, by which pixels are ordered
KEPT = (100, 99, 95, 90, 80, 70, 60, 50, 40, 30, 20, 10)  # % of the pixels at which the error is told


class Reliability:
    """Counts of pixels by confidence, right and wrong, over any number of images.

    Pixels in patches unlike anything in the bank have the confidence 0, which is no probability: they are the last ones
    to be kept, but aren't held against what confidence says.
    """

    def __init__(self) -> None:
        self._pixels, self._right = (np.zeros(BINS * FINER, np.int64) for _ in range(2))
        self._sure = np.zeros(BINS * FINER)
        self._unlike = np.zeros(2, np.int64)  # pixels, and those that are right

    def add(self, truth: np.ndarray, prediction: np.ndarray, confidence: np.ndarray) -> None:
        """Count an image: `[H, W]` class indices twice, void (−1) in the truth left out, and confidence in 0..1."""
        labelled = truth != VOID
        sure = confidence[labelled].astype(np.float64)
        places = np.minimum((sure * BINS * FINER).astype(np.int64), BINS * FINER - 1)
        right = prediction[labelled] == truth[labelled]
        self._pixels += np.bincount(places, minlength=BINS * FINER)
        self._right += np.bincount(places[right], minlength=BINS * FINER)
        self._sure += np.bincount(places, sure, BINS * FINER)
        self._unlike += np.count_nonzero(sure == 0), np.count_nonzero(right & (sure == 0))

    def join(self, other: Reliability) -> None:
        """Add the counts of other images."""
        self._pixels += other._pixels
        self._right += other._right
        self._sure += other._sure
        self._unlike += other._unlike

    def facts(self) -> dict[str, Any]:
        """What a report says of it: see `calibration_error` and `risk_coverage`."""
        pixels, right, sure = (v.reshape(BINS, FINER).sum(1) for v in (self._pixels, self._right, self._sure))
        kept, error = risk_coverage(self._pixels, self._right)
        unlike, unlike_right = self._unlike.tolist()
        every = int(pixels.sum())
        pixels[0], right[0] = pixels[0] - unlike, right[0] - unlike_right
        return {
            "bins": BINS,
            "expected_calibration_error": calibration_error(pixels, right, sure),
            "reliability": [
                {
                    "from": place / BINS,
                    "to": (place + 1) / BINS,
                    "pixels": int(pixels[place]),
                    "confidence": float(sure[place] / pixels[place]) if pixels[place] else None,
                    "right": float(right[place] / pixels[place]) if pixels[place] else None,
                }
                for place in range(BINS)
            ],
            "risk_coverage": [
                {"kept": share / 100, "error": float(np.interp(share / 100, kept, error))} for share in KEPT
            ],
            "area_under_risk_coverage": float(np.sum((error[1:] + error[:-1]) / 2 * np.diff(kept))),
            "unlike_the_bank": unlike / every,
            "wrong_where_unlike": 1 - unlike_right / unlike if unlike else None,
        }


def calibration_error(pixels: np.ndarray, right: np.ndarray, sure: np.ndarray) -> float:
    """Expected calibration error: how far confidence and accuracy of a bin are apart, the mean over pixels.

    Args:
        pixels, right: `[bins]` pixels, and those that are right.
        sure: `[bins]` sum of their confidence.
    """
    return float(np.abs(sure - right).sum() / max(1, pixels.sum()))


def risk_coverage(pixels: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The error among the most confident pixels, by the share of pixels that they are.

    Args:
        pixels, right: counts by confidence, the lowest first.

    Returns:
        Shares, rising from 0 to 1, and the share of pixels among them that are wrong; at 0 as at the first one.
    """
    there = pixels[::-1] > 0
    taken, correct = (values[::-1][there].cumsum() for values in (pixels, right))
    error = 1 - correct / taken
    return np.concatenate([[0.0], taken / taken[-1]]), np.concatenate([error[:1], error])
