"""Labelled images of whole data sets, for classification and retrieval: which, and how they are opened."""

from __future__ import annotations

from pathlib import Path

from fungi_seg.datasets.class_folders import open_class_folders, open_cub200
from fungi_seg.datasets.image_set import ImageData, ImageSet, LabelledImage
from fungi_seg.datasets.named import SOURCES, open_named
from fungi_seg.datasets.revisited import open_revisited
from fungi_seg.datasets.settings import BY_HAND, ImageDataConfig
from fungi_seg.errors import DataError


def open_images(config: ImageDataConfig, skip_bad: bool = False) -> ImageData:
    """Find the images of a data set; nothing is decoded yet, and nothing is fetched unless `config.download`.

    Raises:
        FungiSegError: a split that the data set doesn't have.
        DataError: no such folder, missing files, fewer than two classes, or images and classes that don't fit (skipped
            with `skip_bad`, and listed in `ImageSet.problems`).
    """
    root = _root(config)
    if config.name == "revisited":
        if config.train or config.val:
            raise DataError("data.train and data.val name splits, and revisited has none: leave them out")
        return open_revisited(root)
    if config.name in SOURCES:
        data = open_named(config.name, root, config.train, config.val, config.download)
    else:
        opener = open_cub200 if config.name == "cub200" else open_class_folders
        data = opener(root, config.train, config.val, skip_bad)
    if len(data.train.classes) < 2:
        found = ", ".join(data.train.classes) or "none"
        raise DataError(
            f"data.root is {config.root!r}, where the training images are of these classes: {found}; "
            f"classification needs at least two"
        )
    for split, images in (("train", data.train), ("val", data.val)):
        if not images:
            raise DataError(f"data.{split}: no image was found for it below {config.root!r}; check both")
    return data


def _root(config: ImageDataConfig) -> Path:
    root = Path(config.root).expanduser()
    if config.download and config.name in BY_HAND:
        raise DataError(
            f"data.download is true, but {config.name} can't be fetched: leave --data.download out, and put into the "
            f"folder that --data.root names: {BY_HAND[config.name]}"
        )
    if not config.root:
        into = "to put it in" if config.download else "that holds the data set"
        raise DataError(f"data.root is not given; name the folder {into} with --data.root")
    if not root.is_dir() and not config.download:
        fetch = "" if config.name in BY_HAND else ", or fetch it there with --data.download true"
        raise DataError(
            f"data.root is {config.root!r}: no such folder; name the data set's folder with --data.root{fetch}"
        )
    return root


__all__ = ["ImageData", "ImageDataConfig", "ImageSet", "LabelledImage", "open_images"]
