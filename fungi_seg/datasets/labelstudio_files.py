"""The files that go with a Label Studio export: images by their address there, and masks of brushed regions."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from fungi_seg.datasets.common import files_by_id
from fungi_seg.datasets.paths import closest, composed
from fungi_seg.errors import DataError, listing, nearest
from fungi_seg.files import files_below, stamp
from fungi_seg.images import IMAGE_SUFFIXES, has_suffix, read_mask

UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file
MASK_NAME = re.compile(r"task-(?P<task>.+?)-annotation-(?P<annotation>.+?)-by-[^-]*-(?P<rest>.+-\d+)", re.DOTALL)


class ImageFiles:
    """The images below a folder, by the addresses that Label Studio has for them.

    Args:
        folder: searched through.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._named: dict[str, list[Path]] = defaultdict(list)
        self._stored: dict[str, list[Path]] = defaultdict(list)
        for path in files_below(folder):
            if has_suffix(path, IMAGE_SUFFIXES):
                self._named[composed(path.name)].append(path)
                self._stored[_stored(path.name)].append(path)

    def find(self, address: str, suggest: bool = True) -> Path:
        """The file of that name; of several the one in folders of the same names.

        Without the beginning that Label Studio gives to uploaded files, and with characters that it leaves out.

        Args:
            address: of the image.
            suggest: name the file most like it where there is none: this compares it with all files.

        Raises:
            DataError: there is none, or it is unclear which.
        """
        names = list(dict.fromkeys(_names(address)))
        for there in (self._named, self._stored):
            for name in names:
                found = closest(name, there.get(name.name, ()))
                if found:
                    return found
        like = nearest(names[-1].name, self._named) if suggest else ""
        raise DataError(
            f"its image {address!r:.200} isn't in {str(self._folder)!r}{like}; put the images there, or name their "
            f"folder with --data.images"
        )

    def id(self, path: Path) -> str:
        """The path below the folder, without suffix."""
        return path.relative_to(self._folder).with_suffix("").as_posix()


def is_image(address: str) -> bool:
    """Whether the address, which may be signed, is that of a file named like an image."""
    return any(name.suffix.lower() in IMAGE_SUFFIXES for name in _names(address))


def _names(address: str) -> Iterator[PurePosixPath]:
    """What the file at `/data/upload/1/0a1b2c3d-a%20b.jpg` or `/data/local-files/?d=…` may be called."""
    try:
        parts = urlsplit(address)
        addressed = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    except ValueError:
        addressed = address
    for path in (PurePosixPath(composed(text).replace("\\", "/")) for text in (address, addressed)):
        yield path
        yield path.parent / UPLOADED.sub("", path.name, count=1) if UPLOADED.match(path.name) else path


def _stored(name: str) -> str:
    """A file's name as Label Studio stores it."""
    return re.sub(r"[^-\w.]", "", composed(name).strip().replace(" ", "_"))


@dataclass(frozen=True)
class MaskFile:
    """The mask image of a region.

    Attributes:
        path: of the file.
        rest: the end of its name: tag, label and number.
    """

    path: Path
    rest: str

    def paint(self, mask: np.ndarray, value: int) -> None:
        """Set the pixels of `[H, W]` where the image is above 0, in place.

        Raises:
            DataError: unreadable, or of another size.
        """
        inside = read_mask(self.path) > 0
        if inside.shape != mask.shape:
            raise DataError(
                f"{self.path} is {inside.shape[0]}×{inside.shape[1]} (height×width), its image "
                f"{mask.shape[0]}×{mask.shape[1]}; both must have the same size"
            )
        mask[inside] = value


@dataclass(frozen=True)
class MaskFiles:
    """The masks below a folder.

    Attributes:
        found: by the ids of task and annotation.
        state: what changes with the files.
    """

    found: dict[tuple[str, str], list[MaskFile]]
    state: str

    def regions(
        self, task: str, annotation: str, results: list[dict[str, Any]], tags: Collection[str], labels: Collection[str]
    ) -> Iterator[tuple[str, MaskFile]]:
        """Labels and masks of an annotation, in the order of its results; what these don't name comes last.

        Args:
            task, annotation: ids.
            results: of the annotation.
            tags, labels: that are known. Labels may hold the `-` that stands before and after them in the files' names.

        Raises:
            DataError: no mask although something was brushed, or a name that begins with none of the tags.
        """
        labels_of = dict(_brushed(results))
        names = list(labels_of)
        files = self.found.get((task, annotation), [])
        if labels_of and not files:
            raise DataError(
                f"there is no mask task-{task}-annotation-{annotation}-by-….png in the folder of --data.masks, "
                f"although {len(labels_of)} regions were brushed; export the masks again"
            )
        for file in sorted(files, key=lambda file: names.index(file.rest) if file.rest in labels_of else len(names)):
            yield labels_of.get(file.rest) or _label(file, tags, labels), file


def mask_files(folder: Path) -> MaskFiles:
    """The mask images below a folder.

    Raises:
        DataError: there are none.
    """
    found = defaultdict(list)
    digest = hashlib.sha256()
    paths = list(files_by_id(folder, (".png",)).values())
    for path in paths:
        parts = MASK_NAME.fullmatch(path.stem)
        if parts:
            found[parts["task"], parts["annotation"]].append(MaskFile(path, parts["rest"]))
            digest.update(repr((path.name, stamp(path))).encode())
    if not found:
        raise DataError(
            f"data.masks is {str(folder)!r}, where no mask is named like task-1-annotation-2-by-3-tag-label-0.png; "
            f"there are:\n{listing(path.name for path in paths) or '  no PNG files'}"
        )
    return MaskFiles(dict(found), digest.hexdigest()[:16])


def _brushed(results: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """How the files of brushed regions end, and the first label of each."""
    count: Counter[str] = Counter()
    for result in results:
        value = result.get("value")
        labels = value.get("brushlabels") or value.get("labels") if isinstance(value, dict) and "rle" in value else None
        if isinstance(labels, list) and labels:
            name = _plain("-".join(map(str, [result.get("from_name"), *labels])))
            yield f"{name}-{count[name]}", str(labels[0])
            count[name] += 1


def _label(file: MaskFile, tags: Collection[str], labels: Collection[str]) -> str:
    """The longest known label after the longest known tag, or all that stands there."""
    name = file.rest.rpartition("-")[0]
    for tag in sorted(tags, key=len, reverse=True):
        if name.startswith(f"{_plain(tag)}-"):
            label = name[len(tag) + 1 :]
            known = [known for known in labels if f"{label}-".startswith(f"{_plain(known)}-")]
            return max(known, key=len, default=label)
    raise DataError(
        f"{file.path}: its label isn't known: the name has none of the JSON's tags "
        f"({', '.join(sorted(tags)) or 'none'}) before it; export masks and JSON of the same project"
    )


def _plain(name: str) -> str:
    return name.replace("/", "-").replace("\\", "-")
