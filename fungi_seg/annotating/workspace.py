"""A folder of images that is being annotated: what the page of `fungi-seg serve` asks for."""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from fungi_seg.annotating.faults import Conflict, NotThere
from fungi_seg.annotating.folder import Record, chosen, images_within, input_of
from fungi_seg.annotating.gate import Gate
from fungi_seg.annotating.settings import ExportConfig, WorkspaceConfig
from fungi_seg.annotating.store import AnnotationStore, Colour
from fungi_seg.errors import FungiSegError, reason
from fungi_seg.images import InputConfig, read_mask

if TYPE_CHECKING:  # what these import takes seconds, and the first view doesn't wait for it
    from fungi_seg.annotating.engine import Engine
    from fungi_seg.bank import MemoryBank

log = logging.getLogger(__name__)

HELD = 15.0  # seconds after which a tab that says nothing has left its image
READY = 120.0  # seconds that a request waits for the backbone


class Workspace:
    """Images, strokes on them, masks that follow from these, and the bank that they become. Threads may share one.

    The backbone is loaded when `start` is called, or first needed; what needs it waits.

    Args:
        images: folder of the images.
        bank: folder of the bank, which is made when the first image is saved.
        config: where annotations lie, and what a new bank is made with.

    Attributes:
        gate: closed to work in the background while a request is answered.

    Raises:
        DataError: no image, or annotations that can't be read.
        FungiSegError: annotations or bank within the folder of images, classes that aren't the bank's, or annotations
            that another server works on.
    """

    def __init__(self, images: str | Path, bank: str | Path, config: WorkspaceConfig | None = None):
        self.config = config or WorkspaceConfig()
        self.root, self.bank_path = Path(images).expanduser(), Path(bank).expanduser()
        given = self.config.annotations
        self.folder = (
            Path(given).expanduser() if given else self.bank_path.with_name(f"{self.bank_path.name}.annotations")
        )
        for what, path in (("annotations", self.folder), ("bank", self.bank_path)):
            if path.resolve().is_relative_to(self.root.resolve()):
                raise FungiSegError(
                    f"{path}: the {what} would lie within the folder of images, {self.root}, and masks be taken for "
                    f"images; name another folder with --{what}"
                )
        self.warnings: list[str] = []
        self._input = input_of(self.bank_path, self.config.input)
        self.files = images_within(self.root, self.warnings, self._input)
        self.store = AnnotationStore(self.folder, self.files, self.root)
        self.records = [Record(i, name, self.files[name]) for i, name in enumerate(sorted(self.files))]
        self._numbers = {record.name: record.number for record in self.records}
        for name in set(self.store.state["looked"]) & self.files.keys():
            self.records[self._numbers[name]].looked = True
        self.gate = Gate()
        self._start = secrets.token_hex(4)  # browsers keep thumbnails of earlier starts, which may be of other folders
        self._lock, self._held = threading.Lock(), dict[int, tuple[str, float]]()
        self._engine: Engine | None = None
        self._error: str | None = None
        self._loaded, self._started = threading.Event(), False

    def start(self) -> None:
        """Begin to load what segments, in the background; what needs it would, too."""
        with self._lock:
            if self._started:
                return
            self._started = True
        threading.Thread(target=self._load, name="loading", daemon=True).start()

    def _load(self) -> None:
        """Make everything ready that takes its time."""
        try:
            from fungi_seg.annotating.engine import Engine

            self._engine = Engine(self.store, self.records, self.bank_path, self.config, self.gate)
        except FungiSegError as error:
            self._error = str(error)
        except BaseException as error:
            log.exception("the backbone can't be loaded")
            self._error = f"the backbone can't be loaded ({reason(error)}); see the log"
        finally:
            self._loaded.set()

    def close(self) -> None:
        """End all work in the background; others may work on the annotations now."""
        if self._started:
            self._loaded.wait()
            if self._engine:
                self._engine.close()
        self.store.close()

    @property
    def engine(self) -> Engine:
        """What segments, once it is loaded.

        Raises:
            Conflict: it isn't yet, or can't be.
        """
        self.start()
        if not self._loaded.wait(READY):
            raise Conflict("the backbone is still being loaded; try again soon", "early")
        if self._engine is None:
            raise Conflict(self._error or "the backbone can't be loaded", "early")
        return self._engine

    @property
    def _shown(self) -> InputConfig:
        """How images are read to be looked at; waits for the backbone where their limits are looked for."""
        known = self._input.scaling != "data" or self._input.limits
        return self._input if known else self.engine.input

    def record(self, number: int) -> Record:
        """The image of a number.

        Raises:
            NotThere: there is none, or it has become a link that leads out of the folder.
        """
        if not 0 <= number < len(self.records):
            raise NotThere(f"image {number}: the folder holds images 0 to {len(self.records) - 1}")
        found = self.records[number]
        if not found.path.resolve().is_relative_to(self.root.resolve()):
            raise NotThere(f"{found.path}: is a link by now that leads out of {self.root}; serve the folder it lies in")
        return found

    def state(self) -> dict[str, Any]:
        """Everything that the page shows beside images; see its parts."""
        ready, engine = self._loaded.is_set(), self._engine
        warnings = list(self.warnings)
        if engine:
            try:
                engine.refresh()
            except FungiSegError as error:
                warnings.append(f"the bank was changed, and can't be used as it is now: {error}")
        bank, store = engine.bank if engine else None, self.store
        fixed = len(bank.info.classes) if bank else 0
        name = engine.features.backbone.config.name if engine else self.config.backbone.name
        return {
            "title": self.root.name or str(self.root),
            "total": len(self.records),
            "annotated": len(store.saved),
            "drafts": len(store.drafts),
            "looked": sum(one.looked for one in self.records),
            "predicted": engine.surveyed if engine else 0,
            "classes": [
                {"index": i, "name": name, "colour": "#{:02x}{:02x}{:02x}".format(*colour), "fixed": i < fixed}
                for i, (name, colour) in enumerate(zip(store.classes, store.palette, strict=True))
            ],
            "bank": bank_facts(bank) if bank else None,
            "backbone": {"name": name, "ready": ready and engine is not None, "error": self._error},
            "jobs": engine.work.as_json() if engine else [],
            "doubt": store.state["doubt"],
            "warnings": [*warnings, *(engine.problems() if engine else [])],
            "version": engine.painting.version if engine else 0,
        }

    def set_classes(self, classes: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """Name the classes, all of them in order; those that there are may be renamed until the bank has them.

        Args:
            classes: `name` and `colour` (`#rrggbb`) of each.

        Raises:
            FungiSegError: a name that is empty or there twice, a colour that isn't one, too many, or fewer than before.
        """
        names = [str(one.get("name", "")).strip() for one in classes]
        colours = [parsed_colour(str(one.get("colour", ""))) for one in classes]
        with self.gate.answering():
            self.engine.set_classes(names, colours)
        return self.state()

    def list_images(
        self, sort: str = "doubt", kept: str = "all", class_index: int | None = None, offset: int = 0, limit: int = 60
    ) -> dict[str, Any]:
        """Some of the images, as `folder.chosen` puts them in order."""
        found = chosen(self.records, self._status(), sort, kept, class_index)
        part = found[max(0, offset) : max(0, offset) + max(0, limit)]
        return {"total": len(found), "images": [self._as_json(one) for one in part]}

    def image(self, number: int, tab: str) -> dict[str, Any]:
        """An image with its annotation, for a tab that opens it."""
        record = self.record(number)
        with self.gate.answering():
            found = self.engine.opened(record)
            self.look(number)
            held = self.hold(number, tab)["held"]
            return {**self._as_json(record), **found, "held": held}

    def prediction(self, number: int) -> dict[str, Any]:
        """The mask of an image by the annotations as they are, without what is painted on itself laid over."""
        with self.gate.answering():
            return self.engine.shown(self.record(number))

    def edit(self, number: int, version: int, box: Sequence[int], runs: Sequence[int]) -> dict[str, Any]:
        """Give a rectangle of an image other labels; they are on disk when this returns. See `Painting.edit`."""
        record = self.record(number)
        with self.gate.answering():
            version, prediction = self.engine.edit(record, version, box, runs)
        return {"version": version, "status": self._status().get(record.name, "none"), "prediction": prediction}

    def accept(self, number: int, version: int) -> dict[str, Any]:
        """Give what isn't painted in an image the classes of its mask. See `Painting.accept`."""
        with self.gate.answering():
            return self.engine.accept(self.record(number), version)

    def save(self, number: int, version: int) -> dict[str, Any]:
        """Write an image's mask, and put it into the bank. See `Engine.save`."""
        record, started = self.record(number), time.perf_counter()
        with self.gate.answering():
            version = self.engine.save(record, version)
        bank = self.engine.bank
        return {
            "image": self._as_json(record),
            "version": version,
            "bank": bank_facts(bank) if bank else None,
            "seconds": round(time.perf_counter() - started, 3),
        }

    def look(self, number: int, looked: bool = True) -> dict[str, Any]:
        """Remember that somebody looked at an image."""
        record = self.record(number)
        with self._lock:
            if record.looked != looked:
                record.looked = looked
                self.store.keep(looked=[one.name for one in self.records if one.looked])
        return self._as_json(record)

    def hold(self, number: int, tab: str, release: bool = False) -> dict[str, Any]:
        """A tab has an image open, or leaves it. Whether another one has it."""
        self.record(number)
        now = time.monotonic()
        with self._lock:
            owner, since = self._held.get(number, (tab, now))
            if owner != tab and now - since < HELD:
                return {"held": True}
            if release:
                self._held.pop(number, None)
            else:
                self._held[number] = tab, now
        return {"held": False}

    def explain(self, number: int, x: int, y: int) -> dict[str, Any]:
        """Which annotated patches voted for a pixel. See `Engine.explain`."""
        with self.gate.answering():
            found = self.engine.explain(self.record(number), x, y)
        for voter in found["voters"]:
            voter["id"] = self._numbers.get(voter["name"])
        return found

    def next_image(self) -> dict[str, Any]:
        """The image that is worth annotating next, and why; see `suggest`."""
        return self.engine.next_image()

    def thumbnail(self, number: int) -> bytes:
        """An image made small, with its annotation over its mask, as JPEG; it waits for no backbone.

        Raises:
            DataError: it can't be read.
        """
        from fungi_seg.annotating.thumbnails import thumbnail

        record, store = self.record(number), self.store
        palette = np.array(store.palette or [(0, 0, 0)], np.uint8)
        prediction = annotation = None
        if record.seen is not None:
            prediction = cv2.imdecode(np.frombuffer(record.seen.mask, np.uint8), cv2.IMREAD_UNCHANGED)
        if record.name in store.saved | store.drafts:
            annotation = read_mask(store.mask_file(record.name))
        return thumbnail(record.path, palette, prediction, annotation, input=self._shown)

    def picture(self, number: int, stretch: bool = False) -> tuple[bytes, str]:
        """An image at its own size, and its media type; see `thumbnails.picture`."""
        from fungi_seg.annotating.thumbnails import picture

        return picture(self.record(number).path, stretch, self._shown)

    def crop(self, name: str, box: tuple[float, float, float, float]) -> bytes:
        """A patch of an image of the folder or of the bank with what is around it, as JPEG.

        Raises:
            NotThere: the image isn't found.
        """
        if name in self._numbers:
            self.record(self._numbers[name])
        return self.engine.crop(name, box)

    def start_job(self, kind: str, wanted: ExportConfig | None = None) -> dict[str, Any]:
        """Begin work in the background: `fit` (settings of the vote), `audit` (doubtful annotations) or `export`.

        Raises:
            Conflict: it is running, or there is no bank yet.
            NotThere: no such work.
        """
        return self.engine.work.start(kind, wanted or ExportConfig())

    def cancel_job(self, kind: str) -> dict[str, Any]:
        """End work in the background at its next step."""
        return self.engine.work.cancel(kind)

    def doubtful(self) -> dict[str, Any]:
        """Annotations that the other images contradict, as the last audit found them."""
        found = self.engine.work.doubtful
        return {
            "annotations": [{**one, "id": self._numbers.get(one["name"])} for one in found],
            "of": len(self.engine.bank_names),
        }

    def exported(self) -> list[dict[str, Any]]:
        """The files of the last export: `name` and `bytes` of each."""
        return self.engine.work.exported()

    def exported_file(self, name: str) -> Path:
        """One of them.

        Raises:
            NotThere: there is none of that name.
        """
        return self.engine.work.exported_file(name)

    def zipped(self) -> Iterator[bytes]:
        """All of them as a zip archive, part by part."""
        return self.engine.work.zipped()

    def bank_file(self) -> Iterator[bytes]:
        """The bank as one file, part by part; see `MemoryBank.export`.

        Raises:
            Conflict: there is no bank yet.
        """
        return self.engine.work.bank_file()

    def _status(self) -> dict[str, str]:
        return {**dict.fromkeys(self.store.saved, "saved"), **dict.fromkeys(self.store.drafts, "draft")}

    def _as_json(self, record: Record) -> dict[str, Any]:
        in_bank = self._engine is not None and record.name in self._engine.bank_names
        status = "draft" if record.name in self.store.drafts else "saved" if record.name in self.store.saved else "none"
        told = record.as_json(status, in_bank)
        return {**told, "stamp": f"{self._start}-{told['stamp']}"}


def bank_facts(bank: MemoryBank) -> dict[str, Any]:
    """What the page is told of a bank."""
    fitted = bool(bank.manifest.decoder and bank.manifest.decoder.get("choices"))
    return {
        "path": bank.place,
        "rows": len(bank),
        "images": len(bank.info.sources),
        "revision": bank.revision,
        "fitted": fitted,
    }


def parsed_colour(text: str) -> Colour:
    """`#rrggbb` as red, green and blue.

    Raises:
        FungiSegError: something else.
    """
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise FungiSegError(f"colour is {text!r}; it must be like #e69f00: red, green and blue in two digits each")
    red, green, blue = (int(text[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
