"""Labelled images as files: a folder for each class (ImageNet too), and CUB-200-2011 with its lists."""

from __future__ import annotations

from pathlib import Path

from fungi_seg.datasets.common import files_by_id, read_lines
from fungi_seg.datasets.image_set import ImageData, ImageSet, check_splits
from fungi_seg.errors import DataError, check_choice, listing
from fungi_seg.images import IMAGE_SUFFIXES

CUB_SPLITS = {"train": "1", "test": "0"}

Found = dict[str, dict[str, Path]]  # class name, id, file


def open_class_folders(root: Path, train: str | None, val: str | None, skip_bad: bool) -> ImageData:
    """`ROOT/SPLIT/<class>/**/*.jpg`, by default of the splits `train` and `val`; the training classes are the classes.

    Raises:
        DataError: no such split, a class without images, or one that only `val` has (skipped with `skip_bad`).
    """
    train, val = train or "train", val or "val"
    check_splits(train, val)
    learnt, problems = _scan(root, "data.train", train, skip_bad)
    measured, passed = _scan(root, "data.val", val, skip_bad)
    return _paired(learnt, problems, measured, passed, skip_bad)


def open_cub200(root: Path, train: str | None, val: str | None, skip_bad: bool) -> ImageData:
    """The tree of CUB_200_2011, or the folder that holds it; splits `train` and `test`.

    Raises:
        DataError: another tree, lists that don't fit each other, or images that are missing (skipped with `skip_bad`).
    """
    for base in (root, root / "CUB_200_2011"):
        if (base / "images.txt").is_file():
            break
    else:
        raise DataError(
            f"data.root is {str(root)!r}, which holds no CUB-200-2011: expected CUB_200_2011 with images.txt, "
            f"image_class_labels.txt, train_test_split.txt, classes.txt and images"
        )
    train, val = train or "train", val or "test"
    check_splits(train, val)
    learnt, problems = _read_cub(base, "data.train", train, skip_bad)
    measured, passed = _read_cub(base, "data.val", val, skip_bad)
    return _paired(learnt, problems, measured, passed, skip_bad)


def _scan(root: Path, argument: str, split: str, skip_bad: bool) -> tuple[Found, list[str]]:
    """Classes of a split in sorted order, those that have images, and a line for each that has none."""
    folder = root / split
    if not folder.is_dir():
        raise DataError(
            f"{argument} is {split!r}, but {str(root)!r} has no such sub-folder; sub-folders there: "
            f"{', '.join(_folders(root)) or 'none'}"
        )
    found: Found = {}
    remarks: list[str] = []
    for name in _folders(folder):
        files = files_by_id(folder / name, IMAGE_SUFFIXES, remarks)
        found[name] = {f"{name}/{i}": path for i, path in files.items() if not _hidden(i)}
    empty = [f"{split}/{name}: no image" for name, files in found.items() if not files]
    if empty and not skip_bad:
        raise DataError(
            f"{folder}: {len(empty)} of {len(found)} class folders hold no image ({' '.join(IMAGE_SUFFIXES)}):\n"
            f"{listing(empty)}\nFill or remove them, or skip them with --skip-bad"
        )
    return {name: files for name, files in found.items() if files}, [*empty, *remarks]


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))


def _read_cub(base: Path, argument: str, split: str, skip_bad: bool) -> tuple[Found, list[str]]:
    """Classes of a split in the order of `classes.txt`, those that have images, and a line for each missing image."""
    check_choice(argument, split, CUB_SPLITS)
    images, labels, sides, names = (
        _numbered(base / f"{name}.txt") for name in ("images", "image_class_labels", "train_test_split", "classes")
    )
    if not images.keys() == labels.keys() == sides.keys() or not set(labels.values()) <= names.keys():
        raise DataError(
            f"{base}: images.txt, image_class_labels.txt and train_test_split.txt must name the same images, and of "
            f"classes in classes.txt; unpack CUB_200_2011.tgz again"
        )
    found: Found = {name: {} for name in names.values()}
    missing = []
    for number, file in images.items():
        if sides[number] == CUB_SPLITS[split]:
            path = base / "images" / file
            if path.is_file():
                found[names[labels[number]]][Path(file).with_suffix("").as_posix()] = path
            else:
                missing.append(f"images/{file}: no such file")
    if missing and not skip_bad:
        raise DataError(
            f"{base}: {len(missing)} images of images.txt are missing:\n{listing(missing)}\n"
            f"Unpack CUB_200_2011.tgz again, or skip them with --skip-bad"
        )
    return {name: files for name, files in found.items() if files}, missing


def _numbered(path: Path) -> dict[str, str]:
    """Lines `number value` of a list of CUB-200-2011."""
    pairs = [line.split(maxsplit=1) for line in read_lines(path, "list")]
    odd = [" ".join(pair) for pair in pairs if len(pair) != 2]
    if odd:
        raise DataError(f"{path}: lines must be a number and a value; unpack CUB_200_2011.tgz again:\n{listing(odd)}")
    return {pair[0]: pair[1] for pair in pairs}


def _paired(train: Found, problems: list[str], val: Found, passed: list[str], skip_bad: bool) -> ImageData:
    strange = [f"{name}: {len(files)} images" for name, files in val.items() if name not in train]
    if strange and not skip_bad:
        raise DataError(
            f"{len(strange)} classes of the measured images have no training images:\n{listing(strange)}\n"
            f"Add training images of them, or leave them out with --skip-bad"
        )
    passed = passed + [f"{line} left out, of a class without training images" for line in strange]
    return ImageData(_image_set(train, tuple(train), problems), _image_set(val, tuple(train), passed))


def _image_set(found: Found, classes: tuple[str, ...], problems: list[str]) -> ImageSet:
    entries = [(i, path, label) for label, name in enumerate(classes) for i, path in found.get(name, {}).items()]
    paths = [path for _, path, _ in entries]
    ids, labels = tuple(i for i, _, _ in entries), tuple(label for _, _, label in entries)
    return ImageSet(ids, labels, classes, paths.__getitem__, tuple(problems))
