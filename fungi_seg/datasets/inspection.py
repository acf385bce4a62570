"""What is in annotated images: classes, sizes, and what is wrong with them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.datasets.common import Dataset, about
from fungi_seg.datasets.palettes import Colour, as_colour, colours_beside
from fungi_seg.datasets.values import Doubt, void_doubt
from fungi_seg.errors import DataError, UsageError, listing
from fungi_seg.files import sha256, stamp
from fungi_seg.images import InputConfig, is_deep
from fungi_seg.progress import prefetch, track

WORKERS = 2
END = 1 << 16  # bytes of a file that are compared before all of it is


@dataclass(frozen=True)
class Look:
    """One image, as it was read.

    Attributes:
        id: of the image.
        size: `(height, width)` in pixels; zeros where it can't be read.
        kind: colour or grey, and its bits a channel.
        pixels: `[C + 1]` int64, of each class, and of void at last.
        fault: why it can't be read, or nothing.
    """

    id: str
    size: tuple[int, int]
    kind: str
    pixels: np.ndarray
    fault: str = ""


@dataclass(frozen=True)
class SplitReport:
    """One split.

    Attributes:
        images: how many there are.
        dataset: those that were looked at.
        looks: one for each of them.
        twice: ids of images whose files hold the same bytes.
        doubt: why void seems to be a class, or nothing.
    """

    images: int
    dataset: Dataset
    looks: tuple[Look, ...]
    twice: tuple[tuple[str, ...], ...] = ()
    doubt: Doubt | None = None

    @cached_property
    def readable(self) -> tuple[Look, ...]:
        """Without those that can't be read."""
        return tuple(look for look in self.looks if not look.fault)

    @cached_property
    def sizes(self) -> np.ndarray:
        """`[n, 2]` heights and widths in pixels, of the readable images."""
        return np.array([look.size for look in self.readable]).reshape(-1, 2)

    @cached_property
    def pixels(self) -> np.ndarray:
        """`[n, C + 1]` int64 of the readable images, void at last."""
        return np.array([look.pixels for look in self.readable]).reshape(-1, len(self.dataset.classes) + 1)

    @property
    def void(self) -> float:
        """Share of the pixels that are void, 0..1; 0 without an image."""
        total = self.pixels.sum(0)
        return float(total[-1] / max(1, total.sum()))

    @property
    def kinds(self) -> dict[str, int]:
        """How many images are colour or grey, of how many bits a channel."""
        return dict(Counter(look.kind for look in self.readable).most_common())

    @property
    def unlabelled(self) -> list[str]:
        """Ids of readable images that are void all over."""
        return [look.id for look in self.readable if not look.pixels[:-1].any()]

    @cached_property
    def classes(self) -> dict[str, tuple[int, float]]:
        """For each class the number of images that hold it, and its share of all pixels, 0..1."""
        pixels = self.pixels
        images, shares = (pixels[:, :-1] > 0).sum(0), pixels.sum(0)[:-1] / max(1, pixels.sum())
        return {name: (int(images[i]), float(shares[i])) for i, name in enumerate(self.dataset.classes)}

    @property
    def problems(self) -> list[str]:
        """What seems to be meant otherwise, was skipped, can't be read, has no label or is there more than once."""
        return [
            *([self.doubt.text] if self.doubt else []),
            *self.dataset.problems,
            *(look.fault for look in self.looks if look.fault),
            *(f"{name}: no pixel has a label" for name in self.unlabelled),
            *(f"{', '.join(ids)}: the same image {len(ids)} times" for ids in self.twice),
        ]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        sizes = self.sizes
        sides = {name: spread(sizes[:, axis]) for axis, name in enumerate(("height", "width"))}
        return {
            "images": self.images,
            "looked_at": len(self.looks),
            "readable": len(self.readable),
            **sides,
            "sizes": len(np.unique(sizes, axis=0)),
            "kinds": self.kinds,
            "void": self.void,
            "classes": {name: {"images": n, "share": share} for name, (n, share) in self.classes.items()},
            "problems": self.problems,
            "remarks": list(self.dataset.remarks),
        }


@dataclass(frozen=True)
class DataReport:
    """What is in a data set.

    Attributes:
        splits: by name.
        across: what is wrong between splits, one line each.
        settings: where it lies and how it was opened.
    """

    splits: dict[str, SplitReport]
    across: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names, those of the first split first."""
        return tuple(dict.fromkeys(name for split in self.splits.values() for name in split.dataset.classes))

    @property
    def palette(self) -> np.ndarray:
        """`[C, 3]` uint8 RGB, of `classes`; a class has its colour in the first split that has it, if it is free."""
        found: dict[str, Colour] = {}
        for split in self.splits.values():
            own = zip(split.dataset.classes, split.dataset.palette.tolist(), strict=True)
            new = {name: colour for name, colour in own if name not in found}
            colours = colours_beside(new.values(), found.values()) if found else map(as_colour, new.values())
            found |= zip(new, colours, strict=True)
        return np.array([found[name] for name in self.classes], np.uint8).reshape(-1, 3)

    @property
    def groups(self) -> tuple[str, ...]:
        """The super-category of each of `classes`, empty where it has none."""
        return tuple(self._of_class(name, "groups") or "" for name in self.classes)

    def _of_class(self, name: str, attribute: str) -> Any:
        for split in self.splits.values():
            values = getattr(split.dataset, attribute)
            if name in split.dataset.classes and len(values):
                return values[split.dataset.classes.index(name)]
        return None

    @property
    def absent(self) -> dict[str, list[str]]:
        """For each split the classes without a pixel in it."""
        return {
            split: [name for name in self.classes if not report.classes.get(name, (0, 0.0))[0]]
            for split, report in self.splits.items()
        }

    def to_json(self) -> str:
        """All figures."""
        colours, groups = self.palette.tolist(), self.groups
        described = zip(self.classes, groups, colours, strict=True)
        return json.dumps(
            {
                **self.settings,
                "classes": [{"name": name, "group": group, "colour": colour} for name, group, colour in described],
                "splits": {name: split.as_dict() for name, split in self.splits.items()},
                "absent": self.absent,
                "across": list(self.across),
            },
            indent=1,
            ensure_ascii=False,
        )


def inspect_data(
    splits: Mapping[str, Dataset],
    limit: int | None = None,
    workers: int = WORKERS,
    progress: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> DataReport:
    """Read annotated images and describe what is in them.

    Args:
        splits: data sets by the name of their split, as `open_dataset` gives them; with `skip_bad` they hold more.
        limit: look at so many images of each split at most, taken at even distances.
        workers: threads that read images.
        progress: show it on standard error.
        settings: put before the figures in `DataReport.to_json`.

    Raises:
        UsageError: `limit` isn't positive.
        DataError: none of the images can be read.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; at least 1 image of each split must be looked at")
    looked = {name: data.evenly(min(limit or len(data), len(data))) for name, data in splits.items()}
    bytes_of = _fingerprints(item.image for data in splits.values() for item in data.items)
    reports = {}
    for name, data in looked.items():
        looks = prefetch(partial(look_at, data), range(len(data)), workers)
        found = tuple(track(looks, len(data), f"looking at {name}", show=progress))
        reports[name] = SplitReport(len(splits[name]), data, found, _twice(splits[name], bytes_of))
        if np.count_nonzero(reports[name].pixels.sum(0)[:-1]) < 2:
            reports[name] = replace(reports[name], doubt=void_doubt(data, workers))
    faults = [look.fault for report in reports.values() for look in report.looks if look.fault]
    if len(faults) == sum(map(len, looked.values())):
        raise DataError(f"none of the {len(faults)} images that were looked at can be read:\n{listing(faults)}")
    return DataReport(reports, (*_other_classes(splits), *_shared(splits, bytes_of)), dict(settings or {}))


def look_at(dataset: Dataset, index: int) -> Look:
    """Read one image and count its labels."""
    item, classes = dataset.items[index], len(dataset.classes)
    try:
        sample = dataset[index]
    except DataError as error:
        return Look(item.id, (0, 0), "", np.zeros(classes + 1, np.int64), str(about(item, error)))
    pixels = np.roll(np.bincount(sample.mask.ravel() + 1, minlength=classes + 1), -1)
    return Look(
        item.id, (sample.image.shape[0], sample.image.shape[1]), _kind(item.image, sample.image, dataset.input), pixels
    )


def _kind(path: Path, image: np.ndarray, input: InputConfig) -> str:
    """Colour or grey by the pixels of `image`, bits by the file's header."""
    thinned = image[::16, ::16]
    grey = all((view == view[..., :1]).all() for view in (thinned, image))  # most aren't, which few pixels tell
    return f"{'grey' if grey else 'colour'}, {'16 bits or more' if is_deep(path, input) else '8 bits'}"


def spread(values: np.ndarray) -> dict[str, int]:
    """Least, median and greatest of whole numbers; nothing where there are none."""
    return {
        name: int(f(values)) for name, f in (("min", np.min), ("median", np.median), ("max", np.max)) if len(values)
    }


def _fingerprints(files: Iterable[Path]) -> dict[Path, str]:
    """What is the same for files of the same bytes only: size; where others have that too, ends; then all of it."""
    stamps = {path: str(found[0]) for path in dict.fromkeys(files) if (found := stamp(path))}
    for more in (_ends, sha256):
        shared = Counter(stamps.values())
        stamps = {p: f"{own} {_read(more, p)}" if shared[own] > 1 else own for p, own in stamps.items()}
    return stamps


def _read(more: Callable[[Path], str], path: Path) -> str:
    try:
        return more(path)
    except OSError:  # an error when the image is read; like no other file
        return str(path)


def _ends(path: Path) -> str:
    """The SHA-256 of the first and last bytes of a file, hexadecimal."""
    with path.open("rb") as opened:
        first = opened.read(END)
        opened.seek(max(0, opened.seek(0, 2) - END))
        return hashlib.sha256(first + opened.read(END)).hexdigest()


def _by_bytes(dataset: Dataset, bytes_of: Mapping[Path, str]) -> dict[str, list[str]]:
    """Ids of the images by what their files hold."""
    found = defaultdict(list)
    for item in dataset.items:
        if item.image in bytes_of:
            found[bytes_of[item.image]].append(item.id)
    return found


def _twice(dataset: Dataset, bytes_of: Mapping[Path, str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(ids) for ids in _by_bytes(dataset, bytes_of).values() if len(ids) > 1)


def _shared(splits: Mapping[str, Dataset], bytes_of: Mapping[Path, str]) -> list[str]:
    """Images that two splits share, which make look too good how good a bank is.

    Lists that extend others by their name (trainaug, trainval) may share theirs with them.
    """
    compared = {name: _by_bytes(data, bytes_of) for name, data in splits.items() if not name.startswith("trainval")}
    found = []
    for (one, first), (other, second) in combinations(compared.items(), 2):
        both = [f"{first[held][0]} = {second[held][0]}" for held in first if held in second]
        if both and not (one.startswith("train") and other.startswith("train")):
            shown = ", ".join(both[:3]) + (", …" if len(both) > 3 else "")
            found.append(f"{one} and {other} share {len(both)} images, byte for byte: {shown}")
    return found


def _other_classes(splits: Mapping[str, Dataset]) -> list[str]:
    """Splits whose classes aren't those of the first one."""
    (first, base), *others = splits.items()
    found = []
    for name, data in others:
        more = [c for c in data.classes if c not in base.classes]
        less = [c for c in base.classes if c not in data.classes]
        differences = [f"{what} {', '.join(names)}" for what, names in (("has also", more), ("has no", less)) if names]
        if differences:
            found.append(f"{name} has other classes than {first}: it {' and '.join(differences)}")
    return found
