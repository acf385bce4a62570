"""Settings of the vote that suit a bank, chosen on its own rows: each is segmented by the other images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from fungi_seg.bank import PUBLISHED_WEIGHT, Equations, Lift, MemoryBank, class_weights
from fungi_seg.errors import BankError
from fungi_seg.progress import track
from fungi_seg.segmentation.confidence import Calibration, Evidence, calibration_of
from fungi_seg.segmentation.decoder import balanced, vote
from fungi_seg.segmentation.intervals import mean_iou_interval, mean_iou_of
from fungi_seg.segmentation.neighbours import foreign_neighbours
from fungi_seg.segmentation.ridge import Ridge
from fungi_seg.segmentation.settings import DecoderConfig

FEWEST_IMAGES = 5
QUERIES, FEWEST_QUERIES, QUERIED_ROWS = 8192, 1024, 102_400
FOLDS = 16
MEASURED_ROWS = 2048
EXACT = 2.0**24  # parts of a row that are counted: sums of them leave exactly 0 when all are taken away
EDGES = "not fitted: edges can't be seen from patches alone; it gained on every data set that was measured"


@dataclass(frozen=True)
class Grid:
    """What is tried. A published value is kept unless another one is better beyond doubt.

    Args:
        gradient_weight, k, temperature: of the vote, in every combination.
        class_share, ridge, penalty, share: of what is done with it, in every combination; `ridge` are kinds of
            regression, with their bandwidth as a multiple of the median distance between tokens of different images.
        refine: is taken as it is.
    """

    gradient_weight: tuple[float, ...] = (0.0, 0.15, 0.3, 0.5)
    k: tuple[int, ...] = (10, 30)
    temperature: tuple[float, ...] = (0.01, 0.02, 0.05)
    class_share: tuple[float, ...] = (0.0, 0.25, 0.5)
    ridge: tuple[tuple[str, float], ...] = (("token", 1.0), ("feature", 1.0), ("fourier", 0.7), ("fourier", 1.4))
    penalty: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    share: tuple[float, ...] = (0.3, 0.5, 0.7, 0.85)
    refine: float = 1.0


@dataclass(frozen=True)
class Choice:
    """One setting, and what it gains over the published one where all others are as chosen.

    Attributes:
        setting: its name.
        value, published: what was taken, and what is published.
        tried: the value that did best, which isn't taken where its gain could be chance.
        gain: of that value in mIoU, 0..1, over rows of the bank.
        interval: of the gain, 95 %, as `mean_iou_interval` finds it.
    """

    setting: str
    value: Any
    published: Any
    tried: Any
    gain: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Fit:
    """What was chosen for a bank.

    Attributes:
        decoder: the settings.
        choices: why.
        notes: what else there is to say.
        facts: rows tried, images, and mIoU over rows of the published settings and of these.
        confidence: how sure classes are with these settings.
    """

    decoder: DecoderConfig
    choices: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()
    facts: dict[str, float] | None = None
    confidence: Calibration | None = None

    def record(self) -> dict[str, Any]:
        """What a bank keeps of it: see `MemoryBank.keep_decoder`."""
        return {
            "settings": asdict(self.decoder),
            "choices": [asdict(choice) for choice in self.choices],
            "notes": list(self.notes),
            "facts": self.facts or {},
            "confidence": self.confidence.record() if self.confidence else None,
        }


def fit_decoder(bank: MemoryBank, grid: Grid | None = None, progress: bool = False) -> Fit:
    """Choose how a bank's rows vote, by leaving out the images near the one that each row is of.

    Rows are tried as patches of new images: neither their neighbours nor regressions see the row's own image, or, of
    more than 16 images, the sixteenth of them that it belongs to. Those are consecutive: frames of a video resemble
    the next ones, and leaving out one alone would flatter the nearest neighbours. A class counts as in the annotated
    images, not as in the bank. A value other than the published one is taken only if the 95 % interval of its gain lies
    above 0.

    Args:
        bank: an open bank.
        grid: what is tried.
        progress: report on standard error.
    """
    grid, images = grid or Grid(), len(np.unique(bank.rows.source))
    why = _too_little(bank)
    if why:
        return Fit(DecoderConfig(), notes=(f"not fitted, as published: the bank has {why}",))
    trial = Trial(bank, grid, progress)
    vote_settings, first = trial.choose_vote()
    settings, second = trial.choose_rest(vote_settings)
    published = trial.score(trial.published_vote)
    facts = {
        "rows": float(len(trial.rows)),
        "images": float(images),
        "published": float(mean_iou_of(published.sum(0))),
        "fitted": float(mean_iou_of(trial.score(settings).sum(0))),
    }
    note = f"refine is {grid.refine}, {EDGES}"
    confidence = calibration_of(trial.evidence(settings), len(bank))
    return Fit(replace(settings, refine=grid.refine), (*first, *second), (note,), facts, confidence)


def calibrate(bank: MemoryBank, decoder: DecoderConfig, progress: bool = False) -> Calibration:
    """Learn how sure classes are with settings other than the fitted ones, which takes most of the time of a fit.

    Args:
        bank: an open bank.
        decoder: the settings.
        progress: report on standard error.

    Raises:
        BankError: fewer than 5 images, or rows of one class alone.
    """
    why = _too_little(bank)
    if why:
        raise BankError(f"{bank.path}: how sure classes are can't be learnt: the bank has {why}")
    weight = decoder.gradient_weight
    if weight is None and bank.info.token_width < bank.info.dim:
        weight = PUBLISHED_WEIGHT
    asked = replace(decoder, gradient_weight=weight)
    grid = Grid((weight or 0.0,), (decoder.k,), penalty=(decoder.ridge_penalty,))
    return calibration_of(Trial(bank, grid, progress).evidence(asked), len(bank))


def _too_little(bank: MemoryBank) -> str | None:
    """Why nothing can be learnt by leaving images out, if so."""
    images = len(np.unique(bank.rows.source))
    if images < FEWEST_IMAGES:
        return f"{images} images, fewer than {FEWEST_IMAGES}"
    return "rows of one class alone" if (bank.class_rows() > 0).sum() < 2 else None


class Trial:
    """Rows of a bank, and what every setting of a grid makes of them.

    Attributes:
        rows: `[Q]` rows that are tried.
        published_vote: the published settings.
    """

    def __init__(self, bank: MemoryBank, grid: Grid, progress: bool = False):
        self.bank, self.grid, self.progress = bank, grid, progress
        self.classes, self.labels = len(bank.info.classes), bank.rows.labels
        wanted = min(QUERIES, max(FEWEST_QUERIES, QUERIES * QUERIED_ROWS // len(bank)))
        self.rows = np.sort(np.random.default_rng(0).permutation(len(bank))[:wanted])
        source = np.asarray(bank.rows.source)
        self._sources, numbers = np.unique(source, return_inverse=True)
        self._image = numbers[self.rows]
        self._folds = numbers * min(FOLDS, len(self._sources)) // len(self._sources)
        self._truth = self.labels.take(self.rows).dense(self.classes).astype(np.float64)
        self.share = bank.class_share()
        in_rows = np.bincount(self.labels.ids, self.labels.weights, self.classes)
        counts = self.share / np.maximum(in_rows / in_rows.sum(), 1e-12)
        self._truth = np.rint(self._truth * np.where(in_rows > 0, counts, 0) * EXACT) / EXACT
        self.has_gradient = bank.info.token_width < bank.info.dim
        self.published_vote = DecoderConfig(gradient_weight=0.5 if self.has_gradient else None)
        weights = dict.fromkeys((*grid.gradient_weight, 0.5)) if self.has_gradient else {None: None}
        most = min(max(*grid.k, DecoderConfig.k), len(bank))
        self._neighbours = foreign_neighbours(bank, self.rows, self._folds, tuple(weights), most, progress)
        self._distance = median_distance(bank)
        self._voted: tuple[object, np.ndarray] = None, np.empty(0)
        self._opinions: dict[tuple[Lift, float], np.ndarray] = {}

    def choose_vote(self) -> tuple[DecoderConfig, list[Choice]]:
        """Gradient weight, K and temperature, without anything else."""
        grid, base = self.grid, self.published_vote
        weights: Sequence[float | None] = grid.gradient_weight if self.has_gradient else (None,)
        tried = [
            replace(base, gradient_weight=a, k=k, temperature=t)
            for a, k, t in product(weights, grid.k, grid.temperature)
        ]
        return self._choose([base, *tried], ("gradient_weight", "k", "temperature"))

    def choose_rest(self, base: DecoderConfig) -> tuple[DecoderConfig, list[Choice]]:
        """Power of the class share and regression, for a vote that is settled."""
        grid, tried = self.grid, []
        kinds = [kind for kind in grid.ridge if kind[0] != "feature" or base.gradient_weight]
        for power in grid.class_share:
            tried.append(replace(base, class_share=power))
            for (kind, multiple), penalty, share in product(kinds, grid.penalty, grid.share):
                width = round(multiple * self._distance, 3) if kind == "fourier" else DecoderConfig.ridge_bandwidth
                tried.append(
                    replace(
                        base,
                        class_share=power,
                        ridge=kind,
                        ridge_bandwidth=width,
                        ridge_penalty=penalty,
                        ridge_share=share,
                    )
                )
        return self._choose([base, *tried], ("class_share", "ridge"))

    def score(self, settings: DecoderConfig) -> np.ndarray:
        """`[images, 3, C]` float64 what rows count: those that are right, of the truth, of the prediction."""
        return self._counts(self._scores(settings).argmax(1))

    def evidence(self, settings: DecoderConfig) -> Evidence:
        """What the rows got, for learning how sure it is."""
        scores, truth = self._scores(settings), self._truth
        predicted, weight = scores.argmax(1), np.maximum(truth.sum(1), 1e-12)
        every = np.arange(len(scores))
        return Evidence(
            best=np.clip(scores[every, predicted].astype(np.float64), 0, 1),
            right=truth[every, predicted] / weight,
            weight=weight,
            image=self._image,
            nearest=self._neighbours[settings.gradient_weight][0][:, 0].astype(np.float64),
        )

    def _scores(self, settings: DecoderConfig) -> np.ndarray:
        """`[Q, C]` float32 class scores of the rows."""
        scores = balanced(self._vote(settings), self.share, settings.class_share)
        if settings.ridge != "none":
            lift = self.bank.lift(settings.ridge, settings.ridge_bandwidth, settings.gradient_weight)
            if (lift, settings.ridge_penalty) not in self._opinions:
                self._opinions |= self._regressions(lift)
            said = self._opinions[lift, settings.ridge_penalty]
            scores = (1 - settings.ridge_share) * scores + settings.ridge_share * said
        return scores

    def _vote(self, settings: DecoderConfig) -> np.ndarray:
        """`[Q, C]` float32 votes as the neighbours cast them; those for the latest settings are kept."""
        key = settings.gradient_weight, settings.k, settings.temperature
        if key != self._voted[0]:
            similarities, found = self._neighbours[settings.gradient_weight]
            k = min(settings.k, similarities.shape[1])
            cast = vote(similarities[:, :k], found[:, :k], self.labels, self.classes, settings.temperature)
            self._voted = key, cast
        return self._voted[1]

    def _counts(self, predicted: np.ndarray) -> np.ndarray:
        images, classes = len(self._sources), self.classes
        cells = self._image * classes + predicted
        right = np.bincount(cells, self._truth[np.arange(len(predicted)), predicted], images * classes)
        taken = np.bincount(cells, self._truth.sum(1), images * classes)
        truth = np.zeros((images, classes))
        np.add.at(truth, self._image, self._truth)
        return np.stack([right.reshape(images, classes), truth, taken.reshape(images, classes)], axis=1)

    def _choose(self, tried: list[DecoderConfig], names: tuple[str, ...]) -> tuple[DecoderConfig, list[Choice]]:
        """The best of `tried`, with each setting in `names` set back whose gain could be chance."""
        shown = track(tried, len(tried), "settings", "settings", show=self.progress)
        found = {settings: self.score(settings) for settings in shown}
        best = max(found, key=lambda settings: float(mean_iou_of(found[settings].sum(0))))
        choices = []
        for name in names:
            back = _set_back(best, self.published_vote, name)
            wanted, published = _shown(best, name), _shown(back, name)
            gain, interval = gain_of(*(self.score(settings) for settings in (best, back)))
            best = best if interval[0] > 0 else back
            choices.append(Choice(name, _shown(best, name), published, wanted, gain, interval))
        return best, choices

    def _regressions(self, lift: Lift) -> dict[tuple[Lift, float], np.ndarray]:
        """By penalty, `[Q, C]` float32 scores of each row by a regression on images other than its own."""
        keys = self.bank.rows.keys
        parts = list(self._fold_equations(lift))
        squares, targets = (np.sum([getattr(p, name) for p in parts], axis=0) for name in ("squares", "targets"))
        queries = np.asarray(keys[self.rows], np.float32)
        folds = self._folds[self.rows]
        penalties = self.grid.penalty
        found = {(lift, p): np.zeros((len(queries), self.classes), np.float32) for p in penalties}
        for number, part in enumerate(parts):
            asked = np.flatnonzero(folds == number)
            rest = replace(part, squares=squares - part.squares, targets=targets - part.targets)
            for penalty in penalties if len(asked) else ():
                found[lift, penalty][asked] = Ridge(lift, rest.solved(penalty))(queries[asked])
        return found

    def _fold_equations(self, lift: Lift) -> Iterator[Equations]:
        in_rows = np.bincount(self.labels.ids, self.labels.weights, self.classes) / 255
        for number in range(int(self._folds.max()) + 1):
            rows = np.flatnonzero(self._folds == number)
            chunks = (
                (np.asarray(self.bank.rows.keys[part]), self.labels.take(part))
                for part in np.array_split(rows, -(-len(rows) // 16_384))
            )
            yield Equations.empty(lift, class_weights(in_rows)).with_rows(chunks, dtype=torch.float32)


def _set_back(settings: DecoderConfig, published: DecoderConfig, name: str) -> DecoderConfig:
    if name == "ridge":
        return replace(settings, ridge="none", ridge_share=0.0)
    return replace(settings, **{name: getattr(published, name)})


def _shown(settings: DecoderConfig, name: str) -> Any:
    """A setting for people; a regression with all that belongs to it."""
    if name != "ridge" or settings.ridge == "none":
        return getattr(settings, name)
    width = f", bandwidth {settings.ridge_bandwidth}" if settings.ridge == "fourier" else ""
    return f"{settings.ridge}{width}, penalty {settings.ridge_penalty}, share {settings.ridge_share}"


def gain_of(one: np.ndarray, other: np.ndarray) -> tuple[float, tuple[float, float]]:
    """What `one` has more of mIoU than `other`, and the interval of that.

    Args:
        one, other: `[images, 3, C]` as `Trial.score` gives them.
    """
    gain = float(mean_iou_of(one.sum(0)) - mean_iou_of(other.sum(0)))
    low, high = mean_iou_interval(one[None], other[None]) or (-1.0, 1.0)  # none: rows of one image alone were tried
    return gain, (low, high)


def median_distance(bank: MemoryBank) -> float:
    """Between tokens of length 1 from different images of a bank, the median over some of its rows."""
    rows = np.sort(np.random.default_rng(0).permutation(len(bank))[:MEASURED_ROWS])
    tokens = Lift("token", bank.info.token_width, bank.info.dim)(np.asarray(bank.rows.keys[rows]))[:, :-1]
    source = np.asarray(bank.rows.source)[rows]
    squares = 2 - 2 * (tokens @ tokens.T)[source[:, None] != source[None]]
    return float(np.sqrt(max(np.median(squares), 1e-6))) if len(squares) else 1.0
