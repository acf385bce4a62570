"""Normal equations of a regression from rows to their labels: sums over rows, so that edits add and subtract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from fungi_seg.bank.labels import SparseLabels
from fungi_seg.bank.settings import PUBLISHED_WEIGHT, RIDGE_KINDS
from fungi_seg.errors import BankError, check_choice

FEWEST_WAVES, MOST_WAVES = 64, 1024  # twice as many cost four times as much, and gain nothing beside a vote
SUMMED_ROWS = 4096
BLOCKS = 8  # of the squares, which are symmetric: those below the diagonal aren't computed
LEAST_MASS = 1.0


@dataclass(frozen=True)
class Lift:
    """What the regression sees of a row.

    Args:
        kind: `token`, `feature` (token and gradient) or `fourier` (random Fourier features of the token).
        token_width: how many numbers of a key are the token.
        dim: of a key.
        bandwidth: of the Gaussian kernel that Fourier features stand for.
        seed: of the Fourier features.
        gradient_weight: a of `feature`: squares of token and gradient are as 1 − a to a.
        waves: how many Fourier features; lifts that differ in it alone count as the same.
    """

    kind: str
    token_width: int
    dim: int
    bandwidth: float = 1.0
    seed: int = 0
    gradient_weight: float = PUBLISHED_WEIGHT
    waves: int = field(default=MOST_WAVES, compare=False)

    def __post_init__(self) -> None:
        check_choice("decoder.ridge", self.kind, RIDGE_KINDS[1:])

    @property
    def width(self) -> int:
        """Numbers a row, the constant that comes last included."""
        return {"token": self.token_width, "feature": self.dim, "fourier": self.waves}[self.kind] + 1

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        """`[m, D]` keys to `[m, width]` float32. Token and gradient have length 1 each, unless they are weighted."""
        keys = np.asarray(keys, np.float32)
        if self.kind == "feature":
            found = keys * self._scale
        else:
            tokens = keys[:, : self.token_width]
            found = tokens / np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), np.float32(1e-12))
        if self.kind == "fourier":
            frequencies, phases = self._frequencies
            angles = torch.addmm(phases, torch.from_numpy(np.ascontiguousarray(found)), frequencies)
            found = angles.cos_().mul_(np.sqrt(2 / self.waves)).numpy()
        return np.concatenate([found, np.ones((len(found), 1), np.float32)], axis=1)

    @cached_property
    def _scale(self) -> np.ndarray:
        """`[D]` by which a key, whose halves are of one length, is multiplied."""
        scale = np.full(self.dim, 2 * np.sqrt(self.gradient_weight), np.float32)
        scale[: self.token_width] = 2 * np.sqrt(1 - self.gradient_weight)
        return scale

    @cached_property
    def _frequencies(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = np.random.default_rng(self.seed)
        frequencies = generator.normal(size=(self.token_width, self.waves)) / self.bandwidth
        phases = generator.uniform(0, 2 * np.pi, self.waves)
        return torch.from_numpy(frequencies.astype(np.float32)), torch.from_numpy(phases.astype(np.float32))


@dataclass(frozen=True)
class Equations:
    """The normal equations of `M` rows.

    A row of labels `y` counts by `class_weights · y`; the weights are those of the time when the regression was fitted,
    so that rows can be added and taken away.

    Attributes:
        lift: what the regression sees of a row.
        class_weights: `[C]` float64, the inverse of how many rows a class had.
        squares: `[F, F]` float64 sum of `w · x xᵀ`.
        targets: `[F, C]` float64 sum of `w · x yᵀ`.
    """

    lift: Lift
    class_weights: np.ndarray
    squares: np.ndarray
    targets: np.ndarray

    @classmethod
    def empty(cls, lift: Lift, class_weights: np.ndarray) -> Equations:
        """Those of no row."""
        width = lift.width
        return cls(lift, class_weights, np.zeros((width, width)), np.zeros((width, len(class_weights))))

    def with_rows(
        self, chunks: Iterable[tuple[np.ndarray, SparseLabels]], sign: int = 1, dtype: torch.dtype = torch.float64
    ) -> Equations:
        """The equations with rows added, or taken away.

        Args:
            chunks: keys `[m, D]` and labels.
            sign: 1, or −1 to take away.
            dtype: of products; in float32 they are twice as fast, and exact to about 1e-4 in what is solved.
        """
        squares, targets = self.squares.copy(), self.targets.copy()
        starts = range(0, len(squares), -(-len(squares) // BLOCKS))
        for keys, labels in chunks:
            dense = labels.dense(len(self.class_weights))
            for start in range(0, len(keys), SUMMED_ROWS):
                part = dense[start : start + SUMMED_ROWS]
                rows = torch.from_numpy(self.lift(keys[start : start + SUMMED_ROWS])).to(dtype)
                weights = torch.from_numpy(part @ self.class_weights).to(dtype)
                weighted = (rows * weights[:, None]).T
                for first, last in zip(starts, [*starts[1:], len(squares)], strict=True):
                    squares[first:last, first:] += sign * (weighted[first:last] @ rows[:, first:]).double().numpy()
                targets += sign * (weighted @ torch.from_numpy(part).to(dtype)).double().numpy()
        upper = np.triu(squares)
        return replace(self, squares=upper + np.triu(upper, 1).T, targets=targets)

    def solved(self, penalty: float) -> np.ndarray:
        """`[F, C]` float32 weights of the regression.

        Args:
            penalty: as a part of the mean square of the inputs; the constant isn't penalised.
        """
        inputs = len(self.squares) - 1
        matrix, targets = torch.from_numpy(self.squares.copy()), torch.from_numpy(self.targets)
        diagonal = matrix.diagonal()
        diagonal[:-1] += penalty * diagonal[:-1].sum() / inputs
        diagonal[-1] += 1e-9 * max(self.squares[-1, -1], 1e-12)  # a bank of nothing but zeros has a solution too
        factor, failed = torch.linalg.cholesky_ex(matrix)
        found = torch.linalg.solve(matrix, targets) if failed else torch.cholesky_solve(targets, factor)
        solution: np.ndarray = found.float().numpy()
        return solution

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` takes."""
        lift = self.lift
        numbers = [lift.token_width, lift.dim, lift.bandwidth, lift.seed, lift.gradient_weight, lift.waves]
        return {
            "lift": np.array([RIDGE_KINDS.index(lift.kind), *numbers], np.float64),
            "class_weights": self.class_weights,
            "squares": self.squares,
            "targets": self.targets,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], classes: int, where: str) -> Equations:
        """Equations from what `arrays` gave, for so many classes.

        Raises:
            BankError: they can't be such equations.
        """
        names = ("lift", "class_weights", "squares", "targets")
        whole = all(name in arrays and arrays[name].dtype == np.float64 for name in names)
        if whole and arrays["lift"].shape == (7,) and np.isfinite(arrays["lift"]).all():
            kind, token_width, dim, bandwidth, seed, weight, waves = arrays["lift"].tolist()
            known = int(kind) in range(1, len(RIDGE_KINDS)) and bandwidth > 0 and 0 <= weight <= 1 and waves >= 1
            if known and 0 < token_width <= dim and seed >= 0:
                lift = Lift(
                    RIDGE_KINDS[int(kind)], int(token_width), int(dim), bandwidth, int(seed), weight, int(waves)
                )
                shapes = {
                    "class_weights": (classes,),
                    "squares": (lift.width, lift.width),
                    "targets": (lift.width, classes),
                }
                if all(arrays[n].shape == s and np.isfinite(arrays[n]).all() for n, s in shapes.items()):
                    return cls(lift, *(arrays[name] for name in names[1:]))
        raise BankError(f"{where}: isn't a regression of this bank; fit it again: fungi-seg bank fit")


def class_weights(mass: np.ndarray) -> np.ndarray:
    """`[C]` float64 weights by which all classes count the same, from the rows `[C]` that each has."""
    weights: np.ndarray = 1 / np.maximum(mass, LEAST_MASS)
    return weights


def waves_for(rows: int) -> int:
    """Fourier features that suit so many rows: √M · ln M (Rudi and Rosasco 2017, Generalization of Learning with
    Random Features), within bounds of time.
    """
    return int(np.clip(np.sqrt(rows) * np.log(rows), FEWEST_WAVES, MOST_WAVES)) if rows else FEWEST_WAVES
