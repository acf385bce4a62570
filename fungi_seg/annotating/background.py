"""Long work on a workspace's bank: fitting the vote, looking for doubtful annotations, exporting."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from scipy import ndimage

from fungi_seg.annotating.export import bank_file, export_results, exported_files, zipped
from fungi_seg.annotating.faults import Conflict, NotThere
from fungi_seg.annotating.folder import Record
from fungi_seg.annotating.gate import Gate
from fungi_seg.annotating.jobs import Job, Jobs
from fungi_seg.annotating.settings import ExportConfig
from fungi_seg.annotating.store import AnnotationStore
from fungi_seg.audit import audit_bank
from fungi_seg.bank import MemoryBank, SourceImages
from fungi_seg.features import PatchFeatures
from fungi_seg.segmentation import Segmenter, fit_decoder

SHOWN = 60  # doubtful annotations
SURVEY = "segment"


class Worked(Protocol):
    """What jobs work on; see `Engine`."""

    bank: MemoryBank | None
    store: AnnotationStore
    records: list[Record]
    features: PatchFeatures
    lock: threading.RLock

    @property
    def surveyed(self) -> int:
        """Images that were segmented by the annotations as they are."""

    def refresh(self) -> None:
        """Use the bank as it was changed."""


class Background:
    """Jobs of an engine.

    Args:
        engine: whose bank and images they work on.
        gate: closed while a request is answered.
        out: folder for exported results.

    Attributes:
        doubtful: what the last audit found, the most doubtful first.
    """

    def __init__(self, engine: Worked, gate: Gate, out: Path):
        self._engine, self._out, self._jobs = engine, out, Jobs(gate)
        self.doubtful: list[dict[str, Any]] = []

    def start(self, kind: str, wanted: ExportConfig) -> dict[str, Any]:
        """Begin some work, see `Workspace.start_job`."""
        works: dict[str, Callable[[MemoryBank], Any]] = {
            "fit": self._fit,
            "audit": self._audit,
            "export": lambda bank: self._export(bank, wanted),
        }
        if kind not in works:
            raise NotThere(f"there is no job {kind!r}; there are {', '.join(works)}")
        bank = self._bank()
        return as_json(self._jobs.start(kind, lambda: works[kind](bank)))

    def cancel(self, kind: str) -> dict[str, Any]:
        """End work at its next step."""
        return as_json(self._jobs.cancel(kind))

    def close(self) -> None:
        """Cancel all and wait for their end."""
        self._jobs.close()

    def wait(self) -> None:
        """Return once no job runs."""
        for job in self._jobs.all():
            self._jobs.wait(job.kind)

    def as_json(self) -> list[dict[str, Any]]:
        """All jobs as the page is told, that of segmenting the folder first."""
        done, total = self._engine.surveyed, sum(one.problem is None for one in self._engine.records)
        status = "done" if done == total else "running"
        survey = Job(SURVEY, status, "images segmented by the annotations as they are", done, total)
        return [as_json(job) for job in (survey, *self._jobs.all())]

    def exported(self) -> list[dict[str, Any]]:
        """Files of the last export."""
        return [{"name": file.name, "bytes": file.bytes} for file in exported_files(self._out)]

    def exported_file(self, name: str) -> Path:
        """One of them."""
        if name not in {file.name for file in exported_files(self._out)}:
            raise NotThere(f"there is no exported file {name!r}; export again")
        return self._out / name

    def zipped(self) -> Iterator[bytes]:
        """All of them as a zip archive."""
        if not exported_files(self._out):
            raise NotThere("nothing was exported yet")
        return zipped(self._out)

    def bank_file(self) -> Iterator[bytes]:
        """The bank as one file."""
        return bank_file(self._bank())[1]

    def _bank(self) -> MemoryBank:
        bank = self._engine.bank
        if bank is None:
            raise Conflict("there is no bank yet; save an annotated image first", "early")
        return bank

    def _fit(self, bank: MemoryBank) -> dict[str, Any]:
        images = SourceImages(bank, self._engine.store.data)
        found = fit_decoder(bank, images=images, features=self._engine.features)
        if found.choices:
            bank.keep_decoder(found.record())
            self._engine.refresh()
        return {"notes": list(found.notes), "facts": found.facts or {}, "changed": bool(found.choices)}

    def _audit(self, bank: MemoryBank) -> dict[str, Any]:
        found = audit_bank(bank)
        self.doubtful = disputes(bank, found.winners, {image["id"]: image["suspicion"] for image in found.images})
        return {"verdict": found.verdict(), "found": len(self.doubtful)}

    def _export(self, bank: MemoryBank, wanted: ExportConfig) -> dict[str, Any]:
        engine = self._engine
        images = {record.name: record.path for record in engine.records if record.problem is None}
        unusable = [record.problem for record in engine.records if record.problem is not None]
        with TemporaryDirectory(prefix="fungi-seg-") as folder:
            corrections = self._copied(Path(folder))
            found = export_results(Segmenter(bank, engine.features), images, corrections, self._out, wanted)
        return {"images": found.total, "skipped": [*unusable, *found.skipped], "objects": found.objects}

    def _copied(self, folder: Path) -> dict[str, Path]:
        """The masks as they are now, by the names of images, for drafts go away as they are saved."""
        store, found = self._engine.store, dict[str, Path]()
        for number, name in enumerate(sorted(store.saved | store.drafts)):
            with self._engine.lock:
                if name in store.saved | store.drafts:
                    found[name] = Path(shutil.copyfile(store.mask_file(name), folder / f"{number}.png"))
        return found


def disputes(bank: MemoryBank, winners: np.ndarray, suspicion: dict[str, float]) -> list[dict[str, Any]]:
    """Regions of annotated images where the other images say another class, the most suspicious images first.

    A region is a group of patches that touch, of one annotated class and one that the others vote for.

    Args:
        bank: that was audited.
        winners: `[M]` class that the other images vote for at each row.
        suspicion: of each image, 0..1.
    """
    rows, classes = bank.rows, len(bank.info.classes)
    annotated = rows.labels.dense(classes).argmax(1)
    found: list[dict[str, Any]] = []
    for source, name in enumerate(bank.info.sources):
        own = np.flatnonzero((rows.source == source) & (annotated != winners) & (rows.epoch == 0))
        for one, other in {(int(annotated[i]), int(winners[i])) for i in own}:
            some = own[(annotated[own] == one) & (winners[own] == other)]
            for box, patches in _groups(rows.box[some]):
                found.append(
                    {
                        "name": name,
                        "box": [round(float(value), 1) for value in box],
                        "class": one,
                        "suggested": other,
                        "score": round(suspicion.get(name, 0.0), 4),
                        "patches": patches,
                    }
                )
    found.sort(key=lambda one: (-one["score"], -one["patches"]))
    return found[:SHOWN]


def _groups(boxes: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Boxes about patches `[m, 4]` that touch, and how many there are in each."""
    side = np.maximum(np.median(boxes[:, 2:] - boxes[:, :2], axis=0), 1e-6)
    cells = np.rint(boxes[:, :2] / side).astype(np.int64)
    cells -= cells.min(0)
    grid = np.zeros(cells.max(0) + 1, bool)
    grid[tuple(cells.T)] = True
    groups = ndimage.label(grid, np.ones((3, 3)))[0][tuple(cells.T)]
    for group in np.unique(groups):
        own = boxes[groups == group]
        yield np.concatenate([own[:, :2].min(0), own[:, 2:].max(0)]), len(own)


def as_json(job: Job) -> dict[str, Any]:
    """What the page is told of a job."""
    return dict(vars(job))
