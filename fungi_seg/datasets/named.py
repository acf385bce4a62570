"""Data sets that torchvision knows: it finds or fetches the files and reads the lists; images are read here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchvision import datasets

from fungi_seg.datasets.image_set import ImageData, ImageSet, check_splits
from fungi_seg.errors import DataError, check_choice, reason

EUROSAT_VAL = 5


def _listed(found: Any) -> Iterable[tuple[str, int]]:
    return zip(found._image_files, found._labels, strict=True)


@dataclass(frozen=True)
class Source:
    """A data set of torchvision.

    Attributes:
        open: root, split and whether to fetch, to torchvision's data set.
        splits: those it has.
        train: the usual split to learn from.
        val: the usual split to measure.
        files: that data set to pairs of an image file and a label; `None` if it keeps arrays.
        depth: how many parts of a file's path make its id.
        fetchable: whether torchvision can fetch it.
    """

    open: Callable[[str, str, bool], Any]
    splits: tuple[str, ...]
    train: str = "train"
    val: str = "test"
    files: Callable[[Any], Iterable[tuple[str, int]]] | None = _listed
    depth: int = 1
    fetchable: bool = True


SOURCES = {
    "cifar10": Source(
        lambda root, split, fetch: datasets.CIFAR10(root, train=split == "train", download=fetch),
        ("train", "test"),
        files=None,
    ),
    "cifar100": Source(
        lambda root, split, fetch: datasets.CIFAR100(root, train=split == "train", download=fetch),
        ("train", "test"),
        files=None,
    ),
    "dtd": Source(
        lambda root, split, fetch: datasets.DTD(root, split, partition=1, download=fetch),
        ("train", "val", "test"),
        depth=2,
    ),
    "flowers102": Source(
        lambda root, split, fetch: datasets.Flowers102(root, split, download=fetch), ("train", "val", "test")
    ),
    "food101": Source(
        lambda root, split, fetch: datasets.Food101(root, split, download=fetch), ("train", "test"), depth=2
    ),
    "aircraft": Source(
        lambda root, split, fetch: datasets.FGVCAircraft(root, split, "variant", download=fetch),
        ("train", "val", "trainval", "test"),
        train="trainval",
    ),
    "pets": Source(
        lambda root, split, fetch: datasets.OxfordIIITPet(root, split, download=fetch),
        ("trainval", "test"),
        train="trainval",
        files=lambda found: zip(found._images, found._labels, strict=True),
    ),
    "cars": Source(
        lambda root, split, fetch: datasets.StanfordCars(root, split),
        ("train", "test"),
        files=lambda found: found._samples,
        fetchable=False,
    ),
    "eurosat": Source(
        lambda root, split, fetch: datasets.EuroSAT(root, download=fetch),
        ("train", "val"),
        val="val",
        files=lambda found: found.samples,
        depth=2,
    ),
}


def open_named(name: str, root: Path, train: str | None, val: str | None, fetch: bool) -> ImageData:
    """The splits `train` and `val`, or the usual ones, of the data set called `name`.

    Of EuroSAT, which has no official split, every fifth image of each class, in the order of the sorted ids, is `val`
    and the rest `train`. Ids are file names without suffix (with the folder, where that is the class), or running
    numbers where the data set keeps no files.

    Raises:
        FungiSegError: a split that the data set doesn't have.
        DataError: not at `root`, damaged, or impossible to fetch.
    """
    source = SOURCES[name]
    learnt, measured = train or source.train, val or source.val
    check_choice("data.train", learnt, source.splits)
    check_choice("data.val", measured, source.splits)
    check_splits(learnt, measured)
    if {learnt, measured} & {"trainval"} and {learnt, measured} & {"train", "val"}:
        raise DataError(
            f"data.train is {learnt!r}, data.val {measured!r}, which share images: trainval is train and val together; "
            f"name others with --data.train or --data.val"
        )
    data = ImageData(_open_split(name, root, learnt, fetch), _open_split(name, root, measured, fetch))
    if data.train.classes != data.val.classes:
        raise DataError(
            f"data.root is {str(root)!r}, where {name} has {len(data.train.classes)} classes in {learnt} and "
            f"{len(data.val.classes)} in {measured}, or others; both must have the same: fetch or unpack it again"
        )
    return data


def _open_split(name: str, root: Path, split: str, fetch: bool) -> ImageSet:
    source = SOURCES[name]
    try:
        found = source.open(str(root), split, fetch)
    except (RuntimeError, OSError, ValueError, LookupError) as error:  # what torchvision and urllib raise
        ways = "name the folder that holds it with --data.root"
        if fetch:
            ways = "try again, or fetch it by other means and name the folder that holds it with --data.root"
        elif source.fetchable:
            ways += ", or fetch it there with --data.download true"
        verb = "fetched" if fetch else "opened"
        raise DataError(
            f"data.root is {str(root)!r}, where {name} can't be {verb} ({reason(error)}); {ways}"
        ) from error
    if source.files is None:
        labels = tuple(int(label) for label in found.targets)
        ids = tuple(f"{number:05d}" for number in range(len(labels)))
        return ImageSet(ids, labels, _class_names(found, labels), found.data.__getitem__)
    entries = [(_id(Path(file), source.depth), Path(file), int(label)) for file, label in source.files(found)]
    classes = _class_names(found, [label for _, _, label in entries])
    if name == "eurosat":
        entries = _eurosat_side(entries, split == "val")
    paths = [path for _, path, _ in entries]
    ids, labels = tuple(i for i, _, _ in entries), tuple(label for _, _, label in entries)
    return ImageSet(ids, labels, classes, paths.__getitem__)


def _id(file: Path, depth: int) -> str:
    return "/".join(file.with_suffix("").parts[-depth:])


def _class_names(found: Any, labels: Iterable[int]) -> tuple[str, ...]:
    names = getattr(found, "classes", None)
    if names is None:
        names = [f"class {number}" for number in range(max(labels, default=-1) + 1)]
    return tuple(str(name) for name in names)


def _eurosat_side(entries: list[tuple[str, Path, int]], val: bool) -> list[tuple[str, Path, int]]:
    by_class = defaultdict(list)
    for entry in sorted(entries):
        by_class[entry[2]].append(entry)
    return [
        entry
        for _, images in sorted(by_class.items())
        for number, entry in enumerate(images, 1)
        if (number % EUROSAT_VAL == 0) == val
    ]
