"""What is known so far of an image that is segmented piece by piece, on disk: a stopped run goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fungi_seg.errors import FungiSegError
from fungi_seg.files import digest, replacing, save_arrays
from fungi_seg.rasters import Window
from fungi_seg.segmentation import FINER, ScoredRows

STRIP = 2**22  # pixels that are read together on the way to a narrow window
STATE, PARTS = "state.json", "tiles-*.safetensors"
MASK, LEVELS, BEST, UNLIKE, PREVIEW = "mask.raw", "levels.raw", "best.raw", "unlike.raw", "preview.raw"


class LargeDraft:
    """Rows of one image's mask and scores in a folder of their own; a context manager that removes what is done.

    Args:
        folder: to write to.
        purpose: whatever the mask depends on, as JSON can hold it; what is there of another purpose is thrown away.
        size: `(H, W)` of the mask.
        grid: `(h, w)` patches.
        dtype: of the mask.
        side: of the picture that is kept of the image, in pixels, at most.

    Attributes:
        tiles: rows of tiles that are scored.
        first: number of the first of them that is kept.
        rows: rows of pixels that are written.
        seconds: that was spent on them.

    Raises:
        FungiSegError: files that an earlier run kept are gone, or cut off.
    """

    def __init__(
        self, folder: Path, purpose: Any, size: tuple[int, int], grid: tuple[int, int], dtype: np.dtype, side: int
    ):
        self.folder, self._purpose, self._size, self._grid = folder, digest(purpose), size, grid
        self._every = -(-max(grid) * FINER // side)  # this cell of the guide is one of the picture's
        self._types = {MASK: np.dtype(dtype), LEVELS: np.dtype(np.uint16)}
        self.tiles, self.first, self.rows, self.seconds = 0, 0, 0, 0.0
        self._lengths: dict[str, int] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            state = json.loads((folder / STATE).read_text("utf-8"))
            if state["purpose"] == self._purpose:
                self._lengths, self.tiles, self.first, self.rows, self.seconds = (
                    state[name] for name in ("lengths", "tiles", "first", "rows", "seconds")
                )
        if self.tiles:
            self._check()
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, number: int, part: ScoredRows, carried: np.ndarray, seconds: float) -> None:
        """Keep what was found with a row of tiles, and what goes on to the next one."""
        arrays = {
            "scores": part.scores,
            "unlike": part.unlike.view(np.uint8),
            "guide": part.guide,
            "votes": part.votes,
            "start": np.array([part.start]),
            "carried": carried,
        }
        save_arrays(self._part(number), arrays)
        with self._opened(BEST) as file:
            self._put(file, part.start * self._grid[1] * 4, part.scores.max(0))
        with self._opened(UNLIKE) as file:
            self._put(file, part.start * self._grid[1], part.unlike.view(np.uint8))
        with self._opened(PREVIEW) as file:
            small = cv2.blur(part.guide, (self._every, self._every))
            first = -(part.start * FINER) % self._every
            small = small[first :: self._every, :: self._every]
            self._put(file, (part.start * FINER + first) // self._every * small[0].size if len(small) else 0, small)
        self.tiles, self.seconds = number + 1, seconds
        self._save()

    def part(self, number: int) -> tuple[ScoredRows, np.ndarray]:
        """What `add` kept.

        Raises:
            FungiSegError: it is damaged.
        """
        file = self._part(number)
        try:
            a = load_file(file)
            part = ScoredRows(int(a["start"][0]), a["scores"], a["unlike"].view(bool), a["guide"], a["votes"])
            return part, a["carried"]
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise self._damaged(file, str(error)) from error

    def write(self, strips: Iterator[tuple[np.ndarray, np.ndarray]], stop: int) -> None:
        """The next rows of pixels, up to `stop`: classes and their scores, strip by strip."""
        with self._opened(MASK) as masks, self._opened(LEVELS) as levels:
            row = self.rows
            for strip in strips:
                for file, name, values in zip((masks, levels), (MASK, LEVELS), strip, strict=True):
                    self._put(file, row * self._size[1] * self._types[name].itemsize, values.astype(self._types[name]))
                row += len(strip[0])
        self.rows = stop
        self._save()

    def forget(self, number: int) -> None:
        """Remove what was kept of rows of tiles before `number`; nothing needs it any more."""
        self.first = min(number, self.tiles - 1)
        self._save()
        for path in self.folder.glob(PARTS):
            if int(path.stem.split("-")[1]) < self.first:
                path.unlink(missing_ok=True)

    def best(self) -> np.ndarray:
        """`[h, w]` float32, the highest score of each patch."""
        return self._all(BEST, np.dtype(np.float32)).reshape(self._grid)

    def unlike(self) -> np.ndarray:
        """`[h, w]` bool, patches that are unlike anything in the bank."""
        return self._all(UNLIKE, np.dtype(np.uint8)).reshape(self._grid).view(bool)

    def preview(self, covered: tuple[float, float]) -> np.ndarray:
        """`[h', w', 3]` uint8 RGB, the image made small.

        Args:
            covered: patches that the image spans.
        """
        width = -(-self._grid[1] * FINER // self._every)
        found = np.fromfile(self.folder / PREVIEW, np.uint8).reshape(-1, width, 3)
        height, width = (max(1, round(side * FINER / self._every)) for side in covered)
        return found[:height, :width]

    def read(self, name: str, window: Window) -> np.ndarray:
        """`[height, width]` of `MASK` or `LEVELS`."""
        kind, width = self._types[name], self._size[1]
        step = window.height if window.width == width else max(1, STRIP // width)
        parts = []
        with (self.folder / name).open("rb") as file:
            file.seek(window.top * width * kind.itemsize)
            for top in range(0, window.height, step):
                rows = min(step, window.height - top)
                part = np.fromfile(file, kind, rows * width).reshape(rows, width)
                parts.append(part[:, window.left : window.left + window.width].copy())
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def remove(self) -> None:
        """All is written elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # other images' drafts lie beside it
            self.folder.parent.rmdir()

    def _all(self, name: str, kind: np.dtype) -> np.ndarray:
        return np.fromfile(self.folder / name, kind, self._grid[0] * self._grid[1])

    def _check(self) -> None:
        """Raise if files hold less than they did: nobody would see it in the mask."""
        for name, length in self._lengths.items():
            path = self.folder / name
            held = path.stat().st_size if path.is_file() else 0
            if held < length:
                raise self._damaged(path, f"it holds {held} of {length} bytes")

    def _damaged(self, path: Path, why: str) -> FungiSegError:
        return FungiSegError(
            f"{path}: what an earlier run kept is damaged ({why}); remove {self.folder} to begin this image anew"
        )

    def _part(self, number: int) -> Path:
        return self.folder / f"tiles-{number:05d}.safetensors"

    @contextmanager
    def _opened(self, name: str) -> Iterator[BinaryIO]:
        """A file to be written to at any place; what was written is on the disk afterwards."""
        path = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.touch()
            with path.open("r+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            self._lengths[name] = path.stat().st_size
        except OSError as error:
            raise FungiSegError(
                f"{path}: can't be written ({error}); free some space, or name another folder"
            ) from error

    @staticmethod
    def _put(file: BinaryIO, place: int, values: np.ndarray) -> None:
        file.seek(place)
        file.write(np.ascontiguousarray(values).data)

    def _save(self) -> None:
        state = {
            "purpose": self._purpose,
            "tiles": self.tiles,
            "first": self.first,
            "rows": self.rows,
            "seconds": self.seconds,
            "lengths": self._lengths,
        }
        with replacing(self.folder / STATE) as draft:
            draft.write_text(json.dumps(state), encoding="utf-8")


class RowsAtHand:
    """Windows of rows that are asked for from the top: those that were read last are at hand.

    Args:
        read: gives `[h, w]` values of a window.
        width: of the whole.
    """

    def __init__(self, read: Callable[[Window], np.ndarray], width: int):
        self._read, self._width, self._rows, self._values = read, width, range(0), np.empty((0, 0))

    def __call__(self, window: Window) -> np.ndarray:
        """`[height, width]` values."""
        rows = range(window.top, window.top + window.height)
        if not (self._rows.start <= rows.start and rows.stop <= self._rows.stop):
            self._rows, self._values = rows, self._read(Window(window.top, 0, window.height, self._width))
        part = self._values[rows.start - self._rows.start : rows.stop - self._rows.start]
        found: np.ndarray = part[:, window.left : window.left + window.width]
        return found
