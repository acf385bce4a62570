"""How sure a class is: scores to the share of pixels that are right, learnt on a bank whose images are left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from fungi_seg.bank import lineage
from fungi_seg.config import from_dict
from fungi_seg.errors import BankError, FungiSegError
from fungi_seg.segmentation.settings import RIDGE_DETAILS, DecoderConfig

FOLDS = 5
BINS = 32  # of isotonic regression: as many numbers are kept
FEWEST_IN_BIN = 32
DIGITS = 5
SHOWN = (0.5, 0.7, 0.9)
STRANGE = 0.001  # share of the bank's own rows that are as unlike all other images
NEWTON_STEPS, SMALLEST_STEP, LONGEST_STEP = 50, 1e-8, 1.0
FARTHEST, HALVINGS = 20.0, 28
CERTAIN = 1e-4  # from 0 and 1: the odds of a score stay finite

LEVELS = 65_535  # that scores of pixels are rounded to

Curve = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Evidence:
    """What rows of a bank got from the other images, `Q` of them.

    Attributes:
        best: `[Q]` score of the class that won, 0..1.
        right: `[Q]` share of the patch's labelled pixels that are of this class, 0..1.
        weight: `[Q]` how much the row counts: rows of balanced banks count as much as their classes cover images.
        image: `[Q]` which image the row is of.
        nearest: `[Q]` similarity of its nearest row in other images.
    """

    best: np.ndarray
    right: np.ndarray
    weight: np.ndarray
    image: np.ndarray
    nearest: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """What the score of the winning class is worth, with the settings of the vote that it was learnt for.

    Between two of `scores` the accuracy is interpolated, beyond them it is that of the last one.

    Args:
        scores: rising, 0..1.
        accuracies: share of pixels that are right at each of them, never falling, 0..1.
        least_similarity: patches whose nearest row is less similar are unlike anything in the bank.
        method: `isotonic` or `logistic` regression or `none`, whichever foretold images that it hadn't seen best.
        errors: mean squared error of the accuracies foretold for images not seen, by method.
        rows: of the bank that it was learnt on.
    """

    scores: tuple[float, ...]
    accuracies: tuple[float, ...]
    least_similarity: float
    method: str
    errors: Mapping[str, float]
    rows: int

    def __post_init__(self) -> None:
        scores, accuracies = np.array(self.scores, np.float64), np.array(self.accuracies, np.float64)
        both = np.concatenate([scores, accuracies])
        if len(scores) != len(accuracies) or not len(scores) or not ((both >= 0) & (both <= 1)).all():
            raise FungiSegError("scores and accuracies of a calibration must be as many, and 0 to 1")
        if (np.diff(scores) <= 0).any() or (np.diff(accuracies) < 0).any() or not math.isfinite(self.least_similarity):
            raise FungiSegError("scores of a calibration must rise, accuracies never fall, the similarity be finite")

    def __call__(self, best: np.ndarray) -> np.ndarray:
        """Scores of winning classes, of any shape, to float32 accuracies, 0..1."""
        found: np.ndarray = np.interp(best, self.scores, self.accuracies).astype(np.float32)
        return found

    def unlike(self, similarities: np.ndarray) -> np.ndarray:
        """Whether patches are unlike anything in the bank, `[Q]` bool, from `[Q, K]` similarities, highest first."""
        found: np.ndarray = similarities[:, 0] < self.least_similarity
        return found

    def levels(self, counts: np.ndarray, mean: float) -> np.ndarray:
        """What each level of a score is worth in one image, `[LEVELS + 1]` float32.

        Patches are what accuracies were learnt on, but their scores are mixed on the way to pixels, so that those of
        pixels are lower. Their log-odds are shifted by one number, by which their mean becomes that of the patches.

        Args:
            counts: `[LEVELS + 1]` pixels at each level.
            mean: accuracy that the image's patches foretell.
        """
        odds = _log_odds(self(np.linspace(0, 1, LEVELS + 1)))
        there = np.flatnonzero(counts)
        share, seen = counts[there] / counts.sum(), odds[there]
        low, high = -FARTHEST, FARTHEST
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if share @ expit(seen + middle) < mean else (low, middle)
        return expit(odds + low).astype(np.float32)

    def facts(self) -> dict[str, Any]:
        """What to tell people: what some scores are worth, below which similarity patches are unknown, and the rest."""
        worth = {str(score): round(float(self(np.array(score))), 3) for score in SHOWN}
        return {"right at score": worth} | {k: v for k, v in asdict(self).items() if k not in ("scores", "accuracies")}

    def record(self) -> dict[str, Any]:
        """What a bank keeps of it."""
        return asdict(self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any], where: str) -> Calibration:
        """From what `record` gave.

        Raises:
            BankError: it isn't one.
        """
        try:
            return from_dict(cls, record, "confidence")
        except (FungiSegError, TypeError, ValueError) as error:
            raise BankError(
                f"{where}: its calibration can't be used ({error}); fungi-seg bank fit makes a new one"
            ) from error


def why_uncalibrated(record: Mapping[str, Any] | None, decoder: DecoderConfig, bank: str) -> str | None:
    """Why what a bank keeps of its fit doesn't say how sure classes are with these settings; none if it does.

    `refine` may be another: reliability is that of patches, whose scores it leaves.

    Args:
        record: a manifest's `decoder`.
        decoder: the settings in use.
        bank: its path.
    """
    if not record or not record.get("confidence"):
        return (
            f"{bank}: nothing is known of how sure its classes are; fungi-seg bank fit --bank {bank} learns it, from 5 "
            f"annotated images and two classes on"
        )
    fitted, used = asdict(from_dict(DecoderConfig, record["settings"], f"{bank}: the fitted decoder")), asdict(decoder)
    idle = RIDGE_DETAILS if fitted["ridge"] == used["ridge"] == "none" else ()
    other = {k: v for k, v in fitted.items() if v != used[k] and k not in ("refine", *idle)}
    if not other:
        return None
    named = ", ".join(f"decoder.{name} is {used[name]} in place of {value}" for name, value in other.items())
    return (
        f"{bank}: how sure classes are was learnt for the settings fitted on the bank, but {named}; leave that out, "
        f"or in Python give the Segmenter calibration=fungi_seg.segmentation.calibrate(bank, decoder)"
    )


def changes_since_fit(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was done with a bank's rows since it was last fitted."""
    actions = [str(entry["action"]) for entry in lineage(history)]
    since = actions[len(actions) - actions[::-1].index("fit") :] if "fit" in actions else actions
    return [action for action in since if action not in ("index", "compact")]


def calibration_of(evidence: Evidence, rows: int) -> Calibration:
    """Learn what scores are worth.

    Scores as they are, logistic and isotonic regression are tried: each foretells a fifth of the images from the
    others, and the one with the smallest squared error is taken, for all images.

    Args:
        evidence: of rows of at least two images.
        rows: of the bank.
    """
    methods: dict[str, Callable[[Evidence], Curve]] = {"none": unchanged, "logistic": logistic, "isotonic": isotonic}
    places = np.unique(evidence.image, return_inverse=True)[1]
    folds = places % min(FOLDS, int(places.max()) + 1)
    errors = {name: _error_unseen(evidence, folds, method) for name, method in methods.items()}
    method = min(methods, key=lambda name: errors[name])
    scores, accuracies = (np.clip(values.round(DIGITS), 0, 1).tolist() for values in methods[method](evidence))
    least = float(np.quantile(evidence.nearest, STRANGE))
    return Calibration(tuple(scores), tuple(accuracies), least, method, errors, rows)


def unchanged(_: Evidence) -> Curve:
    """Scores as they are."""
    return np.array([0.0, 1.0]), np.array([0.0, 1.0])


def isotonic(evidence: Evidence) -> Curve:
    """The rising steps that fit best (pool adjacent violators), over bins of about as many rows each."""
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(evidence.best, kind="stable")
    bins = np.array_split(order, max(1, min(BINS, len(order) // FEWEST_IN_BIN)))
    weights = np.array([evidence.weight[part].sum() for part in bins])
    best, right = (
        np.array([np.average(values[part], weights=evidence.weight[part]) for part in bins])
        for values in (evidence.best, evidence.right)
    )
    scores, places = np.unique(best.round(DIGITS), return_inverse=True)
    together = np.bincount(places, weights)
    return scores, isotonic_regression(np.bincount(places, weights * right) / together, sample_weight=together)


def logistic(evidence: Evidence) -> Curve:
    """Accuracy whose log-odds are a line of the score's log-odds, by Newton's method; it doesn't fall."""
    x, y, w = _log_odds(evidence.best), evidence.right, evidence.weight / evidence.weight.sum()
    inputs = np.stack([x, np.ones_like(x)], 1)
    line = np.array([1.0, 0.0])
    for _ in range(NEWTON_STEPS):
        p = expit(inputs @ line)
        slope = inputs.T @ (w * (y - p))
        step = np.linalg.solve((inputs * (w * p * (1 - p))[:, None]).T @ inputs + 1e-6 * np.eye(2), slope)
        line = line + np.clip(step, -LONGEST_STEP, LONGEST_STEP)
        if np.abs(step).max() < SMALLEST_STEP:
            break
    scores = np.linspace(0, 1, BINS + 1)
    line[0] = max(line[0], 0.0)
    return scores, expit(line[0] * _log_odds(scores) + line[1])


def _log_odds(scores: np.ndarray) -> np.ndarray:
    kept = np.clip(scores.astype(np.float64), CERTAIN, 1 - CERTAIN)
    found: np.ndarray = np.log(kept / (1 - kept))
    return found


def _error_unseen(evidence: Evidence, folds: np.ndarray, method: Callable[[Evidence], Curve]) -> float:
    foretold = np.zeros(len(folds))
    for fold in np.unique(folds):
        left = folds == fold
        foretold[left] = np.interp(evidence.best[left], *method(_part(evidence, ~left)))
    return _squared_error(foretold, evidence)


def _squared_error(foretold: np.ndarray, evidence: Evidence) -> float:
    return float(np.average(np.square(foretold - evidence.right), weights=evidence.weight))


def _part(evidence: Evidence, chosen: np.ndarray) -> Evidence:
    return Evidence(*(values[chosen] for values in vars(evidence).values()))
