"""Settings of the vote that suit a bank, chosen on its own rows: each is segmented by the other images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch

from fungi_seg.bank import PUBLISHED_WEIGHT, Equations, Lift, MemoryBank, SourceImages, class_weights, row_mass
from fungi_seg.errors import BankError
from fungi_seg.features import PatchFeatures
from fungi_seg.progress import pausing, track
from fungi_seg.segmentation.confidence import Calibration, Evidence, calibration_of
from fungi_seg.segmentation.decoder import class_scores, vote
from fungi_seg.segmentation.fit_pixels import Pixels
from fungi_seg.segmentation.fit_record import Choice, Fit, Grid
from fungi_seg.segmentation.intervals import LEVEL, mean_iou_interval, mean_iou_of
from fungi_seg.segmentation.neighbours import foreign_neighbours
from fungi_seg.segmentation.ridge import Ridge
from fungi_seg.segmentation.settings import DecoderConfig
from fungi_seg.segmentation.units import FEWEST, units_of

QUERIES, FEWEST_QUERIES, QUERIED_ROWS = 8192, 1024, 102_400
FOLDS = 16
MEASURED_ROWS = 2048
ON_ROWS = {"gradient_weight": 68, "ridge": 68}  # percent of the interval that must lie above 0, where it isn't 95
AT_PIXELS = dict.fromkeys(("class_share", "ridge", "gradient_weight", "refine"), 0)  # better on average is enough
EXACT = 2.0**24  # parts of a row that are counted: sums of them leave exactly 0 when all are taken away
RIDGE = ("ridge", "ridge_share", "ridge_penalty", "ridge_bandwidth")
Score = Callable[[DecoderConfig], np.ndarray]
EDGES = "not fitted: edges can't be seen from rows alone, and where patches are large it may cost more than it gains"


def fit_decoder(
    bank: MemoryBank,
    grid: Grid | None = None,
    images: SourceImages | None = None,
    features: PatchFeatures | None = None,
    progress: bool = False,
) -> Fit:
    """Choose how a bank's rows vote, by leaving out the images near the one that each row is of.

    Rows are tried as patches of new images: neither their neighbours nor regressions see the row's own image, or, of
    more than 16 images, the sixteenth of them that it belongs to. Those are consecutive: frames of a video resemble
    the next ones, and leaving out one alone would flatter the nearest neighbours. A class counts as in the annotated
    images, not as in the bank. A value other than the published one is taken only if the 95 % interval of its gain lies
    above 0; for a second opinion, which is averaged with the vote and doesn't replace it, that of 68 % is enough (about
    one standard error). The weight of the gradient goes from the published one towards the best as far as that same
    interval demands (the one-standard-error rule of Breiman et al. 1984, Classification and Regression Trees).

    What a class's share does, which regression should say how much, and edges show at pixels, not in patches. Where
    `images` are found, these are chosen on up to 24 of them, segmented without their group, and so is the weight of the
    gradient once more; elsewhere by rows. A gain at pixels is what counts, not a sign of it, and published values are
    no safer there (with eight images they lose 2 to 6 points of mIoU), so that what is better on average is taken.

    Args:
        bank: an open bank.
        grid: what is tried.
        images: finds the annotated images that the rows are of.
        features: of the bank's backbone, for these images.
        progress: report on standard error.
    """
    grid = grid or Grid()
    why = _too_little(bank)
    if why:
        return Fit(DecoderConfig(), notes=(f"not fitted, as published: the bank has {why}",))
    trial = Trial(bank, grid, progress)
    base, first = trial.choose_vote()
    facts = {"rows": float(len(trial.rows)), "images": float(len(np.unique(bank.rows.source)))}
    pixels = None
    if images is not None and features is not None and not trial.in_blocks:
        pixels = trial.pixels(base, images, features)
    if pixels is not None and pixels.count >= FEWEST:
        settings, second = trial.choose_at_pixels(pixels, base)
        score = pixels.score
        facts["images at pixels"] = float(pixels.count)
        notes: tuple[str, ...] = ()
    else:
        settings, second = trial.choose_rest(base)
        score = trial.score
        notes = (f"refine is {grid.refine[-1]}, {EDGES}",)
        if pixels is not None:
            notes += (f"fitted on rows alone, for {pixels.count} of the images that were looked for are there",)
        if trial.in_blocks:
            notes += (f"fitted on rows alone, of {len(trial.units)} blocks of large images that took turns",)
        settings = replace(settings, refine=grid.refine[-1])
    for name, tried in (("published", trial.published_vote), ("fitted", settings)):
        facts[name] = float(mean_iou_of(score(tried).sum(0)))
    seen = {choice.setting for choice in second}
    choices = (*(choice for choice in first if choice.setting not in seen), *second)
    return Fit(settings, choices, notes, facts, calibration_of(trial.evidence(settings), len(bank)))


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
    """Why nothing can be learnt by leaving images out, or blocks of large ones, if so."""
    if len(np.unique(units_of(bank)[0])) < FEWEST:
        return f"{len(np.unique(bank.rows.source))} images, fewer than {FEWEST}"
    return "rows of one class alone" if (bank.class_rows() > 0).sum() < 2 else None


class Trial:
    """Rows of a bank, and what every setting of a grid makes of them.

    Attributes:
        rows: `[Q]` rows that are tried.
        published_vote: the published settings.
        units: `[U]` what is left out together, images or blocks of large ones.
        in_blocks: blocks of large images are left out, and not images.
    """

    def __init__(self, bank: MemoryBank, grid: Grid, progress: bool = False):
        self.bank, self.grid, self.progress = bank, grid, progress
        self.classes, self.labels = len(bank.info.classes), bank.rows.labels
        wanted = min(QUERIES, max(FEWEST_QUERIES, QUERIES * QUERIED_ROWS // len(bank)))
        self.rows = np.sort(np.random.default_rng(0).permutation(len(bank))[:wanted])
        unit, self.in_blocks = units_of(bank)
        self.units, numbers = np.unique(unit, return_inverse=True)
        self._image = numbers[self.rows]
        self._queries = np.asarray(bank.rows.keys[self.rows], np.float32)
        self._folds = numbers * min(FOLDS, len(self.units)) // len(self.units)
        self._truth = self.labels.take(self.rows).dense(self.classes).astype(np.float64)
        self.share = bank.class_share()
        in_rows = row_mass(self.labels, self.classes)
        counts = self.share / np.maximum(in_rows / in_rows.sum(), 1e-12)
        self._truth = np.rint(self._truth * np.where(in_rows > 0, counts, 0) * EXACT) / EXACT
        self.has_gradient = bank.info.token_width < bank.info.dim
        self.published_vote = DecoderConfig(gradient_weight=PUBLISHED_WEIGHT if self.has_gradient else None)
        weights = dict.fromkeys((*grid.gradient_weight, PUBLISHED_WEIGHT)) if self.has_gradient else {None: None}
        most = min(max(*grid.k, DecoderConfig.k), len(bank))
        self._neighbours = foreign_neighbours(
            bank, self._queries, self._folds[self.rows], self._folds, tuple(weights), most, progress
        )
        self._distance = median_distance(bank)
        self._voted: tuple[object, np.ndarray] = None, np.empty(0)
        self._opinions: dict[tuple[Lift, float], np.ndarray] = {}
        self._solved: dict[tuple[Lift, float], list[Ridge]] = {}

    def choose_vote(self) -> tuple[DecoderConfig, list[Choice]]:
        """Gradient weight, K and temperature, without anything else."""
        grid, base = self.grid, self.published_vote
        weights: Sequence[float | None] = grid.gradient_weight if self.has_gradient else (None,)
        tried = [
            replace(base, gradient_weight=a, k=k, temperature=t)
            for a, k, t in product(weights, grid.k, grid.temperature)
        ]
        return self._choose(self.score, [base, *tried], ("gradient_weight", "k", "temperature"))

    def choose_rest(self, base: DecoderConfig) -> tuple[DecoderConfig, list[Choice]]:
        """Power of the class share and regression, for a vote that is settled."""
        tried = []
        for power in self.grid.class_share:
            tried.append(replace(base, class_share=power))
            for one, share in product(self._with_regressions(base), self.grid.share):
                tried.append(replace(one, class_share=power, ridge_share=share))
        return self._choose(self.score, [base, *tried], ("class_share", "ridge"))

    def best_regressions(self, base: DecoderConfig) -> list[DecoderConfig]:
        """`base` with each kind of regression, for half of the scores, and the penalty that does best on rows."""
        best: dict[tuple[str, float], tuple[float, DecoderConfig]] = {}
        tried = list(self._with_regressions(base))
        for one in track(tried, len(tried), "regressions", "settings", show=self.progress):
            kind, figure = (one.ridge, one.ridge_bandwidth), float(mean_iou_of(self.score(one).sum(0)))
            if kind not in best or figure > best[kind][0]:
                best[kind] = figure, one
        return [one for _, one in best.values()]

    def pixels(self, base: DecoderConfig, images: SourceImages, features: PatchFeatures) -> Pixels:
        """Some of the bank's images, for settings that vote as `base` but for the weight of the gradient."""

        def regression(settings: DecoderConfig, queries: np.ndarray, folds: np.ndarray) -> np.ndarray:
            return self._said(self._lift(settings), settings.ridge_penalty, queries, folds)

        weights, k = tuple(self._neighbours), max(base.k, self.published_vote.k)
        return Pixels(self.bank, images, features, self._folds, k, weights, regression, self.progress)

    def choose_at_pixels(self, pixels: Pixels, base: DecoderConfig) -> tuple[DecoderConfig, list[Choice]]:
        """Kind and share of a regression, power of the class share, that share once more, weight and edges, in turn."""
        grid, published = self.grid, self.published_vote
        settings = replace(base, refine=grid.refine[-1])
        kinds = self.best_regressions(settings)
        tried = [settings, *(replace(one, ridge_share=share) for one in kinds for share in grid.share)]
        settings, _ = self._choose(pixels.weighed, tried, ("ridge",), AT_PIXELS)
        tried = [replace(settings, class_share=power) for power in grid.class_share]
        settings, choices = self._choose(pixels.weighed, tried, ("class_share",), AT_PIXELS)
        kind = next((one for one in kinds if one.ridge == settings.ridge), kinds[0])
        regression = {name: getattr(kind, name) for name in RIDGE}
        tried = [replace(settings, **{**regression, "ridge_share": share}) for share in grid.share]
        tried.append(_set_back(settings, published, "ridge"))
        settings, found = self._choose(pixels.weighed, tried, ("ridge",), AT_PIXELS)
        choices += found
        if self.has_gradient:
            tried = [replace(settings, gradient_weight=a) for a in self._neighbours]
            settings, found = self._choose(pixels.weighed, tried, ("gradient_weight",), AT_PIXELS)
            choices += found
        tried = [replace(settings, refine=strength) for strength in (published.refine, *grid.refine)]
        settings, found = self._choose(pixels.weighed, tried, ("refine",), AT_PIXELS)
        return settings, [*choices, *found]

    def _with_regressions(self, base: DecoderConfig) -> Iterator[DecoderConfig]:
        """`base` with each kind of regression and each penalty, for half of the scores."""
        for (kind, multiple), penalty in product(self.grid.ridge, self.grid.penalty):
            if kind == "feature" and not base.gradient_weight:
                continue
            width = round(multiple * self._distance, 3) if kind == "fourier" else DecoderConfig.ridge_bandwidth
            yield replace(base, ridge=kind, ridge_bandwidth=width, ridge_penalty=penalty, ridge_share=0.5)

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
        said = None
        if settings.ridge != "none":
            lift, penalty = self._lift(settings), settings.ridge_penalty
            if (lift, penalty) not in self._opinions:
                self._opinions[lift, penalty] = self._said(lift, penalty, self._queries, self._folds[self.rows])
            said = self._opinions[lift, penalty]
        return class_scores(self._vote(settings), self.share, settings, said)

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
        images, classes = len(self.units), self.classes
        cells = self._image * classes + predicted
        right = np.bincount(cells, self._truth[np.arange(len(predicted)), predicted], images * classes)
        taken = np.bincount(cells, self._truth.sum(1), images * classes)
        truth = np.zeros((images, classes))
        np.add.at(truth, self._image, self._truth)
        return np.stack([right.reshape(images, classes), truth, taken.reshape(images, classes)], axis=1)

    def _lift(self, settings: DecoderConfig) -> Lift:
        return self.bank.lift(settings.ridge, settings.ridge_bandwidth, settings.gradient_weight)

    def _choose(
        self,
        score: Score,
        tried: list[DecoderConfig],
        names: tuple[str, ...],
        levels: Mapping[str, float] = ON_ROWS,
    ) -> tuple[DecoderConfig, list[Choice]]:
        """The best of `tried` by `score`, with each setting in `names` set back whose gain could be chance."""
        shown = track(tried, len(tried), "settings", "settings", show=self.progress)
        score = cache(score)
        best = max(shown, key=lambda settings: float(mean_iou_of(score(settings).sum(0))))
        choices = []
        for name in names:
            back = _set_back(best, self.published_vote, name)
            wanted, published = _shown(best, name), _shown(back, name)
            gain, interval = gain_of(score(best), score(back))
            nearer = [back, *self._between(best) * (name == "gradient_weight"), best]
            best = next(one for one in nearer if not gains(score(best), score(one), levels.get(name, LEVEL)))
            choices.append(Choice(name, _shown(best, name), published, wanted, gain, interval))
        return best, choices

    def _between(self, best: DecoderConfig) -> list[DecoderConfig]:
        """`best` with weights of the gradient on the way to the published one, those nearest to it first."""
        one, other = best.gradient_weight, self.published_vote.gradient_weight
        if one is None or other is None:
            return []
        found = [a for a in self.grid.gradient_weight if min(one, other) < a < max(one, other)]
        return [replace(best, gradient_weight=a) for a in sorted(found, key=lambda a: abs(a - other))]

    def _said(self, lift: Lift, penalty: float, queries: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """`[Q, C]` float32 scores of features `[Q, D]` by a regression on rows of other folds than `[Q]` their own."""
        if (lift, penalty) not in self._solved:
            self._solve(lift)
        found = np.empty((len(queries), self.classes), np.float32)
        for fold in np.unique(folds):
            asked = folds == fold
            found[asked] = self._solved[lift, penalty][fold](queries[asked])
        return found

    def _solve(self, lift: Lift) -> None:
        """Regressions without each fold, for every penalty."""
        parts = list(self._fold_equations(lift))
        squares, targets = (np.sum([getattr(p, name) for p in parts], axis=0) for name in ("squares", "targets"))
        rest = [replace(p, squares=squares - p.squares, targets=targets - p.targets) for p in parts]
        for penalty in self.grid.penalty:
            self._solved[lift, penalty] = [Ridge(lift, one.solved(penalty)) for one in pausing(rest)]

    def _fold_equations(self, lift: Lift) -> Iterator[Equations]:
        none = Equations.empty(lift, class_weights(row_mass(self.labels, self.classes)))
        for number in range(int(self._folds.max()) + 1):
            rows = np.flatnonzero(self._folds == number)
            chunks = (
                (np.asarray(self.bank.rows.keys[part]), self.labels.take(part))
                for part in pausing(np.array_split(rows, -(-len(rows) // 16_384)))
            )
            yield none.with_rows(chunks, dtype=torch.float32)


def _set_back(settings: DecoderConfig, published: DecoderConfig, name: str) -> DecoderConfig:
    if name == "ridge":
        return replace(settings, **{name: getattr(published, name) for name in RIDGE})
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


def gains(one: np.ndarray, other: np.ndarray, level: float) -> bool:
    """Whether that interval, of so many percent, lies above 0."""
    interval = mean_iou_interval(one[None], other[None], level)
    return interval is not None and interval[0] > 0


def median_distance(bank: MemoryBank) -> float:
    """Between tokens of length 1 from different images of a bank, the median over some of its rows."""
    rows = np.sort(np.random.default_rng(0).permutation(len(bank))[:MEASURED_ROWS])
    tokens = Lift("token", bank.info.token_width, bank.info.dim)(np.asarray(bank.rows.keys[rows]))[:, :-1]
    source = np.asarray(bank.rows.source)[rows]
    squares = 2 - 2 * (tokens @ tokens.T)[source[:, None] != source[None]]
    return float(np.sqrt(max(np.median(squares), 1e-6))) if len(squares) else 1.0
