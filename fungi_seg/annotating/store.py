"""Annotations on disk: what is saved, what is still a draft, the classes, and what was looked at."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
from filelock import FileLock, Timeout

from fungi_seg.datasets import (
    DEFAULT_VOID,
    DataConfig,
    Dataset,
    IndexMasks,
    Item,
    as_colour,
    read_lines,
    void_value,
)
from fungi_seg.errors import DataError, FungiSegError
from fungi_seg.files import files_below, replacing
from fungi_seg.images import VOID, read_mask

MASKS, DRAFTS, STATE, CLASSES, PALETTE, LIST, IMAGES = (
    "masks",
    "drafts",
    "workspace.json",
    "classes.txt",
    "palette.txt",
    "annotated.txt",
    "images",
)
LOCK = ".lock"
NOTHING = 0  # version of an image without annotation
QUICK = [cv2.IMWRITE_PNG_COMPRESSION, 1]

Colour = tuple[int, int, int]

log = logging.getLogger(__name__)


class AnnotationStore:
    """The folder of annotations: a data set of layout `folder`, and drafts beside its masks.

    Args:
        folder: of the annotations.
        images: files by name.
        root: the folder of the images, to which a link is made, so that the annotations can be opened as a data set.

    Attributes:
        saved, drafts: names of images with a mask, and with strokes that aren't saved.
        classes, palette: names and colours; none before they were set.
        state: what `workspace.json` holds.

    Raises:
        DataError: something there can't be read.
        FungiSegError: the folder can't be written, or another program works on it.
    """

    def __init__(self, folder: Path, images: Mapping[str, Path], root: Path):
        self.folder, self._images = folder, images
        try:
            folder.mkdir(parents=True, exist_ok=True)
            link = folder / IMAGES
            with suppress(OSError):  # systems without links: the annotations are none the worse
                if not link.exists():
                    link.symlink_to(root.resolve(), target_is_directory=True)
            self._lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
            self._lock.acquire()
        except Timeout as error:
            raise FungiSegError(
                f"{folder}: another server or program works on these annotations, and each would overwrite what the "
                f"other one paints; end it, or name another folder with --annotations"
            ) from error
        except OSError as error:
            raise FungiSegError(
                f"{folder}: can't be written ({error}); name another folder with --annotations"
            ) from error
        self.saved, self.drafts = (self._names(kind) for kind in (MASKS, DRAFTS))
        self.classes: tuple[str, ...] = ()
        self.palette: tuple[Colour, ...] = ()
        if (folder / CLASSES).is_file():
            self.classes = tuple(read_lines(folder / CLASSES, "class list"))
            lines = [line.split() for line in read_lines(folder / PALETTE, "palette")]
            colours = [as_colour([int(value) for value in line]) for line in lines]
            self.palette = tuple(colours[: len(self.classes)])
            if len(self.palette) < len(self.classes):
                raise DataError(
                    f"{folder / PALETTE}: holds {len(self.palette)} colours for the {len(self.classes)} classes of "
                    f"{CLASSES}; give each class a line of red, green and blue"
                )
        self.state, self._keeping = _kept_state(folder / STATE), Lock()

    def close(self) -> None:
        """Others may work on the folder now."""
        self._lock.release()

    def set_classes(self, classes: Sequence[str], palette: Sequence[Colour]) -> None:
        """Keep names and colours of the classes."""
        colours = [" ".join(map(str, colour)) for colour in palette]
        for name, lines in ((PALETTE, colours), (CLASSES, classes)):  # colours too many, after a crash, do no harm
            with replacing(self.folder / name) as draft:
                draft.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self.classes, self.palette = tuple(classes), tuple(palette)

    def keep(self, **state: Any) -> None:
        """Keep what was looked at, and other things worth remembering; no annotation is lost where it can't be."""
        with self._keeping:
            self.state |= state
            try:
                with replacing(self.folder / STATE) as draft:
                    draft.write_text(json.dumps(self.state, ensure_ascii=False), encoding="utf-8")
            except FungiSegError as error:
                log.warning("%s", error)

    def read(self, name: str, size: tuple[int, int]) -> tuple[np.ndarray, int]:
        """The label map of an image of `size` `(H, W)`, int16, void −1; and its version, which changes as it does.

        Raises:
            DataError: it is of another size, or can't be read.
        """
        path = self.mask_file(name)
        if name not in self.drafts | self.saved:
            return np.full(size, VOID, np.int16), NOTHING
        values = read_mask(path)
        if values.shape != size:
            raise DataError(
                f"{path}: is {values.shape[1]}×{values.shape[0]}, its image {self._images[name]} "
                f"{size[1]}×{size[0]} (width×height); the image was changed since: bring it back, or move the mask away"
            )
        labels = IndexMasks(range(len(self.classes)), (self._void,)).class_indices(values, path)
        return labels, _version(path.read_bytes())

    def write_draft(self, name: str, labels: np.ndarray) -> int:
        """Keep the strokes of an image; what it returns is their version."""
        data = self._encoded(labels)
        with replacing(self._file(DRAFTS, name)) as draft:
            draft.write_bytes(data)
        self.drafts = self.drafts | {name}
        return _version(data)

    def publish(self, name: str, labels: np.ndarray) -> None:
        """Write the mask of an image; its draft stays until `forget`."""
        with replacing(self._file(MASKS, name)) as draft:
            draft.write_bytes(self._encoded(labels))
        self.saved = self.saved | {name}
        with replacing(self.folder / LIST) as draft:
            draft.write_text("".join(f"{name}\n" for name in sorted(self.saved)), encoding="utf-8")

    def forget(self, name: str) -> int:
        """The draft of an image is saved; the version of its mask."""
        self._file(DRAFTS, name).unlink(missing_ok=True)
        self.drafts = self.drafts - {name}
        return _version(self._file(MASKS, name).read_bytes())

    def discard(self, name: str) -> int:
        """An image without a mask has no strokes any more; the version of nothing."""
        self._file(DRAFTS, name).unlink(missing_ok=True)
        self.drafts = self.drafts - {name}
        return NOTHING

    def dataset(self, names: Collection[str]) -> Dataset:
        """Saved images as annotated ones."""
        items = tuple(Item(name, self._images[name], self._file(MASKS, name)) for name in names)
        palette = np.array(self.palette, np.uint8).reshape(-1, 3)
        return Dataset(items, self.classes, palette, IndexMasks(range(len(self.classes)), (self._void,)))

    @property
    def data(self) -> DataConfig:
        """How these annotations are opened as a data set."""
        folder = self.folder.resolve()
        return DataConfig("folder", str(folder), file_list=str(folder / LIST))

    def mask_file(self, name: str) -> Path:
        """Where the annotation of an image lies: its draft if there is one, else what is saved."""
        return self._file(DRAFTS if name in self.drafts else MASKS, name)

    @property
    def _void(self) -> int:
        return void_value(len(self.classes))

    def _encoded(self, labels: np.ndarray) -> bytes:
        kind = np.uint8 if self._void == DEFAULT_VOID else np.uint16
        values = np.where(labels == VOID, self._void, labels).astype(kind)
        return cv2.imencode(".png", values, QUICK)[1].tobytes()

    def _file(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{name}.png"

    def _names(self, kind: str) -> frozenset[str]:
        files = files_below(self.folder / kind)
        found = (path.relative_to(self.folder / kind).with_suffix("").as_posix() for path in files)
        return frozenset(name for name in found if name in self._images)


def _kept_state(file: Path) -> dict[str, Any]:
    """What `keep` wrote; parts that are damaged count as empty, for no annotation depends on them."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        found = {}
    found = found if isinstance(found, dict) else {}
    looked, doubt = (part if isinstance(part, list) else [] for part in (found.get("looked"), found.get("doubt")))
    return {
        "looked": [name for name in looked if isinstance(name, str)],
        "doubt": [one for one in doubt if isinstance(one, dict) and {"annotated", "images", "doubt"} <= one.keys()],
    }


def _version(data: bytes) -> int:
    return zlib.crc32(data) or 1
