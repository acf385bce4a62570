"""Rows of a bank that is being built, on disk, so that a build which was stopped goes on where it was."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fungi_seg.bank.keys import encode
from fungi_seg.bank.rows import PRIORITIES, Rows, Table, from_arrays, to_arrays
from fungi_seg.bank.sampling import BalancedReservoir
from fungi_seg.bank.writer import DRAFT, write_arrays
from fungi_seg.errors import BankError, FungiSegError
from fungi_seg.files import digest, save_npy, sha256
from fungi_seg.provenance import now

STATE, SUPPORT = "draft.json", "support.npy"
PART_ROWS, PART_SECONDS = 16_384, 20.0
log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a build has come.

    Attributes:
        passes: images worked through, over all epochs.
        available: labelled patches seen.
        pixels: labelled pixels of each class in those images.
        bad: images skipped, by their number, and why.
        labelled: numbers of the images that had a labelled patch.
        started: when.
        parts: rows written down and SHA-256 of the two files they are in, part by part.
        support: SHA-256 of the file with the support set, empty while there is none.
    """

    passes: int = 0
    available: int = 0
    pixels: list[int] = field(default_factory=list)
    unusable: dict[int, str] = field(default_factory=dict)
    labelled: list[int] = field(default_factory=list)
    started: str = field(default_factory=now)
    parts: list[tuple[int, str, str]] = field(default_factory=list)
    support: str = ""


class Draft:
    """Candidate rows in the folder `.draft` of a bank; as a context, it is removed once the bank is complete.

    Args:
        path: folder of the bank.
        purpose: whatever the rows depend on, as JSON can hold it; rows of another purpose are thrown away.
        reservoir: decides which rows stay; knows those that are there already.
        key_dtype: how keys are stored.
        classes, sources: how many classes and images the data have.

    Attributes:
        progress: how far it has come.

    Raises:
        BankError: `.draft` is a link or a file.
    """

    def __init__(
        self, path: Path, purpose: Any, reservoir: BalancedReservoir, key_dtype: str, classes: int, sources: int
    ):
        self.folder, self._reservoir, self._key_dtype = path / DRAFT, reservoir, key_dtype
        self._limits = classes, sources
        self._purpose = digest(purpose)
        self._waiting: list[tuple[np.ndarray, Table, np.ndarray]] = []
        self._written = time.monotonic()
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise BankError(f"{self.folder}: is a link or a file, where the rows so far are to be kept; remove it")
        self.progress = self._resumed()

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None or not (self.progress.parts or self.progress.support):
            self._remove()

    def add(self, rows: Rows, priorities: np.ndarray) -> None:
        """Rows of the next image."""
        if len(rows):
            self._reservoir.add(priorities)
            self._waiting.append((encode(np.asarray(rows.keys), self._key_dtype), rows.table, priorities))

    def reached(self, passes: int, pixels: np.ndarray, unusable: dict[int, str], labelled: set[int]) -> None:
        """Everything up to image `passes` was added; now and then that is written down."""
        self.progress.passes, self.progress.unusable, self.progress.labelled = passes, dict(unusable), sorted(labelled)
        self.progress.pixels = pixels.tolist()
        self.progress.available = self._reservoir.available
        waiting = sum(len(table) for _, table, _ in self._waiting)
        if waiting >= PART_ROWS or time.monotonic() - self._written > PART_SECONDS:
            self.write()

    def write(self) -> None:
        """Write down what was added since the last time."""
        if self._waiting:
            keys, tables, priorities = zip(*self._waiting, strict=True)
            self._save(np.concatenate(keys), Table.concatenate(tables), np.concatenate(priorities))
            self._waiting = []
        self.folder.mkdir(exist_ok=True)
        state = {"purpose": self._purpose, "progress": asdict(self.progress)}
        draft = self.folder / f"{STATE}.new"
        draft.write_text(json.dumps(state), encoding="utf-8")
        os.replace(draft, self.folder / STATE)
        self._written = time.monotonic()

    def kept(self) -> Iterator[tuple[np.ndarray, Table, np.ndarray]]:
        """The rows that stay, in the order of the images: stored keys, table and priorities, part by part."""
        self.write()
        limit = self._reservoir.limit()
        for number in range(len(self.progress.parts)):
            table, priorities = self._load(number)
            chosen = np.flatnonzero(priorities <= limit)
            yield np.load(self._files(number)[0], mmap_mode="r")[chosen], table.take(chosen), priorities[chosen]

    def support(self, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The support set: that of an earlier run, or made now and written down."""
        file = self.folder / SUPPORT
        if not self.progress.support:
            keys = make()
            self.folder.mkdir(exist_ok=True)
            save_npy(file, keys)
            self.progress.support = sha256(file)
            self.write()
        return np.load(file)

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self, number: int) -> tuple[Path, Path]:
        return self.folder / f"keys-{number:05d}.npy", self.folder / f"table-{number:05d}.safetensors"

    def _save(self, keys: np.ndarray, table: Table, priorities: np.ndarray) -> None:
        self.folder.mkdir(exist_ok=True)
        files = self._files(len(self.progress.parts))
        arrays = to_arrays(table) | {PRIORITIES: priorities}
        save_npy(files[0], keys)
        write_arrays(files[1], arrays, self.folder.parent)
        self.progress.parts.append((len(table), sha256(files[0]), sha256(files[1])))

    def _load(self, number: int) -> tuple[Table, np.ndarray]:
        rows = self.progress.parts[number][0]
        file = self._files(number)[1]
        arrays = load_file(file)
        return from_arrays(arrays, rows, rows, *self._limits, str(file))[0], arrays[PRIORITIES]

    def _resumed(self) -> Progress:
        """What is there, if it is of the same purpose and whole; otherwise a new beginning."""
        try:
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            if state["purpose"] != self._purpose:
                log.warning(
                    "%s: rows of a run with other images, settings or versions (of the feature code, torch or timm) "
                    "are thrown away",
                    self.folder,
                )
            else:
                self.progress = Progress(**state["progress"])
                self.progress.unusable = {int(number): line for number, line in self.progress.unusable.items()}
                for number, (_, *digests) in enumerate(self.progress.parts):
                    if [sha256(file) for file in self._files(number)] != digests:
                        raise ValueError("damaged")
                if self.progress.support and sha256(self.folder / SUPPORT) != self.progress.support:
                    raise ValueError("damaged")
                for number in range(len(self.progress.parts)):
                    self._reservoir.add(self._load(number)[1])
                self._reservoir.available = self.progress.available
                return self.progress
        except (OSError, ValueError, KeyError, TypeError, AttributeError, FungiSegError, SafetensorError):
            pass
        self._remove()
        return Progress()
