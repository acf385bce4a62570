"""Keys of a bank: their encodings, and reading rows of them from files that stay on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CHUNK_ROWS = 16_384
CLIPS = (2.0, 2.5, 3.0, 4.0, 6.0, 9.0)


def encode(keys: np.ndarray, key_dtype: str) -> np.ndarray:
    """L2-normalised keys as they are stored.

    `int8` holds a row's direction in steps of its largest number / 127. `int4` has 16 levels a number, two numbers a
    byte; of several step widths each row takes the one that keeps its direction best. Lengths are 1, so aren't stored.

    Args:
        keys: `[m, D]` floating point, rows of length 1.
        key_dtype: `float16`, `int8` or `int4`.

    Returns:
        `[m, D]` float16 or int8, or `[m, ceil(D / 2)]` uint8.
    """
    if key_dtype == "float16":
        return keys.astype(np.float16)
    keys = keys.astype(np.float32)
    if key_dtype == "int8":
        largest = np.abs(keys).max(1, keepdims=True)
        return np.rint(keys * (127 / np.maximum(largest, 1e-12))).astype(np.int8)
    spread = np.sqrt((keys**2).mean(1, keepdims=True)) + 1e-12
    best, levels = np.full((len(keys), 1), -np.inf, np.float32), np.zeros(keys.shape, np.uint8)
    for clip in CLIPS:
        found = np.clip(np.floor(keys * (8 / (clip * spread))) + 8, 0, 15)
        centred = found - 7.5
        cosine = (centred * keys).sum(1, keepdims=True) / np.linalg.norm(centred, axis=1, keepdims=True)
        better = cosine > best
        best, levels = np.where(better, cosine, best), np.where(better, found, levels).astype(np.uint8)
    if keys.shape[1] % 2:
        levels = np.pad(levels, ((0, 0), (0, 1)))
    return levels[:, ::2] | (levels[:, 1::2] << 4)


def decode(stored: np.ndarray, dim: int) -> np.ndarray:
    """What `encode` stored, as `[m, D]` float16 of length 1."""
    if stored.dtype == np.float16:
        return stored
    if stored.dtype == np.int8:
        directions = stored.astype(np.float32)
    else:
        directions = np.empty((len(stored), 2 * stored.shape[1]), np.float32)
        directions[:, ::2], directions[:, 1::2] = stored & 15, stored >> 4
        directions = directions[:, :dim] - 7.5
    lengths = np.sqrt(np.einsum("md,md->m", directions, directions))[:, None]
    return (directions / np.maximum(lengths, 1e-12)).astype(np.float16)


def stored_width(dim: int, key_dtype: str) -> int:
    """Bytes of one key on disk."""
    return {"float16": 2 * dim, "int8": dim, "int4": -(-dim // 2)}[key_dtype]


def key_dtype_of(stored: np.ndarray) -> str:
    """The type of keys that a stored array holds."""
    return {"f2": "float16", "i1": "int8", "u1": "int4"}[stored.dtype.str[1:]]


def is_stored_as(stored: np.ndarray, dim: int) -> bool:
    """Whether an array can hold keys of width `dim`: its type, and as many columns as that type needs."""
    widths = {"<f2": dim, "|i1": dim, "|u1": -(-dim // 2)}
    return stored.ndim == 2 and stored.shape[1] == widths.get(stored.dtype.str)


@dataclass(frozen=True)
class Part:
    """Stored keys and which of them count.

    Attributes:
        stored: `[m, …]`, on disk or in memory.
        rows: those that count, in order; all where none are given.
        check: called before all of them are read.
    """

    stored: np.ndarray
    rows: np.ndarray | None = None
    check: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self.stored) if self.rows is None else len(self.rows)

    def cut(self, start: int, stop: int) -> Part:
        """The rows from `start` to `stop` alone, as far as there are such."""
        if self.rows is None:
            return Part(self.stored[start:stop], None, self.check)
        return Part(self.stored, self.rows[start:stop], self.check)

    def take(self, places: np.ndarray | slice) -> np.ndarray:
        """Stored rows, read into memory."""
        return np.array(self.stored[places if self.rows is None else self.rows[places]])


class Keys:
    """The keys of a bank, `[M, D]`; rows are read when they are asked for.

    `keys[rows]` gives `[R, D]` float16 for a slice, an array of indices or a mask; `np.asarray(keys)` all of them.

    Args:
        parts: stored keys, one part after another.
        dim: `D`.
    """

    dtype, ndim = np.dtype(np.float16), 2

    def __init__(self, parts: Sequence[Part], dim: int):
        self.parts = tuple(parts)
        self.shape = (sum(map(len, self.parts)), dim)
        self._starts = np.cumsum([0, *map(len, self.parts)])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            rows = range(len(self))[rows]
            if rows.step == 1:
                return self._range(rows.start, max(rows.start, rows.stop))
        rows = np.asarray(rows)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"a mask of shape {rows.shape} for {len(self)} keys")
            rows = np.flatnonzero(rows)
        found = np.empty((*rows.shape, self.shape[1]), np.float16)
        flat, out = rows.ravel() + len(self) * (rows.ravel() < 0), found.reshape(-1, self.shape[1])
        if len(flat) and (flat.min() < 0 or flat.max() >= len(self)):
            raise IndexError(f"row {flat.max()} of {len(self)} keys")
        order = np.argsort(flat, kind="stable")  # a file is read from front to back
        bounds = np.searchsorted(flat[order], self._starts)
        for part, start, first, last in zip(self.parts, self._starts, bounds, bounds[1:], strict=False):
            if last > first:
                places = order[first:last]
                out[places] = decode(part.take(flat[places] - start), self.shape[1])
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.astype(dtype or np.float16)

    def astype(self, dtype: Any) -> np.ndarray:
        """All keys in memory, in another type; the files are checked before."""
        for part in self.parts:
            part.check()
        return self[:].astype(dtype)

    def chunks(self, rows: int = CHUNK_ROWS) -> Iterator[np.ndarray]:
        """All keys in order, `[≤ rows, D]` float16 at a time; the files are checked as they are read."""
        for part in self.parts:
            part.check()
            for start in range(0, len(part), rows):
                yield decode(part.take(slice(start, start + rows)), self.shape[1])

    def _range(self, start: int, stop: int) -> np.ndarray:
        pieces = [np.empty((0, self.shape[1]), np.float16)]
        for part, first in zip(self.parts, self._starts, strict=False):
            inside = slice(max(0, start - first), max(0, stop - first))
            if inside.start < len(part) and inside.stop > inside.start:
                pieces.append(decode(part.take(inside), self.shape[1]))
        return pieces[-1] if len(pieces) == 2 else np.concatenate(pieces)
