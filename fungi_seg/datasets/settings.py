"""Which annotated images, and which labelled ones."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from pathlib import Path

from fungi_seg.errors import DataError, check_choice

LAYOUTS = ("folder", "voc", "ade20k", "coco", "labelme", "labelstudio", "cityscapes", "mmseg", "geo", "negative")
READ_BY = {  # settings that not all layouts read
    "void": ("folder", "voc", "ade20k", "coco", "cityscapes"),
    "values": ("folder", "voc", "ade20k", "coco", "cityscapes"),
    "annotations": ("coco", "labelstudio", "mmseg", "geo"),
    "images": ("voc", "coco", "labelme", "labelstudio", "cityscapes"),
    "masks": ("coco", "labelstudio", "cityscapes"),
    "property": ("geo",),
}
BY_HAND = {
    "folder": "train/<class>/*.jpg and val/<class>/*.jpg",
    "cub200": "CUB_200_2011 with images.txt, image_class_labels.txt, train_test_split.txt, classes.txt and images",
    "imagenet": "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG",
    "revisited": "gnd_roxford5k.pkl or gnd_rparis6k.pkl, and jpg with the images of the database and of the queries",
    "cars": "stanford_cars with devkit, cars_train, cars_test and cars_test_annos_withlabels.mat",
}
NAMED = (
    "cifar10",
    "cifar100",
    "dtd",
    "flowers102",
    "food101",
    "aircraft",
    "pets",
    "cars",
    "eurosat",
)  # that torchvision knows


@dataclass(frozen=True)
class DataConfig:
    """Which annotated images.

    Args:
        layout: `folder`, `voc`, `ade20k`, `coco`, `labelme`, `labelstudio`, `cityscapes`, `mmseg`, `geo` (polygons over
            rasters), or `negative` (a folder of images alone, which hold none of the classes: all of each is
            background).
        root: the folder that holds the data set.
        split: sub-folder (`folder`, `labelme`, `cityscapes`, `geo`, `negative`), list (`voc`: trainaug, train, val, …;
            by default trainaug), `train` / `val` (`ade20k`; by default train), name of the images' folder and the end
            of the JSON's name (`coco`: train2017, …), or data loader (`mmseg`: train, val, test).
        file_list: text file of ids, one a line, that takes the place of the split's own.
        void: mask value that stands for unlabelled; `null` takes the layout's (255; ADE20K: 0; a
            folder of more than 255 classes: 65535). Read by `folder`, `voc` without labelmap.txt, `ade20k`,
            `cityscapes`, and `coco` with pixel maps.
        values: what mask values or colours stand for where it isn't their class index: `255=nucleus,128=void`;
            `1..9=nucleus` is a span, `1..=nucleus` all from 1 (instance masks), `255/0/0=road` a colour. A value that
            isn't named keeps its meaning. Read by `folder`, `voc`, `ade20k`, `cityscapes`, and `coco` with pixel maps.
        annotations: the JSON (`coco`, `labelstudio`), configuration (`mmseg`), or GeoPackage or GeoJSON (`geo`; or the
            folder of such files, which have the names of rasters) that holds the annotations, where it isn't found by
            itself; within root, or a path of its own.
        images: folder of the images (`voc`, `coco`, `labelme`, `labelstudio`, `cityscapes`), where it isn't found by
            itself; within root, or a path of its own.
        masks: folder of the mask images (`coco`: pixel maps, or panoptic where it isn't found by itself;
            `labelstudio`: brush; `cityscapes`: label ids, where it isn't found by itself); within root, or a path of
            its own.
        property: of a polygon (`geo`), what names its class, where it isn't `class`, QuPath's `classification`, or the
            only one of `label` and `name`; `a.b` is b within a.
        classes: the classes to keep, in this order; a super-category stands for all of its classes. The others become
            background where there is a class of that name, void otherwise.
        merge: classes to make one of, as `vehicle=car,bus`; as many as there are. A comma within a name is `\\,`; on
            the command line such names need a JSON list.
    """

    layout: str = "folder"
    root: str = ""
    split: str | None = None
    file_list: str | None = None
    void: int | None = None
    values: tuple[str, ...] = ()
    annotations: str | None = None
    images: str | None = None
    masks: str | None = None
    property: str | None = None
    classes: tuple[str, ...] = ()
    merge: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("data.layout", self.layout, LAYOUTS)
        if self.void is not None and not 0 <= self.void < 2**16:
            raise DataError(f"data.void is {self.void}; it must be a mask value 0..65535, or null")

    @builtins.property  # whose name a field has here
    def folder(self) -> Path:
        """The root as a path."""
        return Path(self.root).expanduser()

    @builtins.property  # whose name a field has here
    def ids(self) -> Path | None:
        """The list of ids as a path."""
        return Path(self.file_list).expanduser() if self.file_list else None

    def place(self, argument: str) -> Path | None:
        """`annotations`, `images` or `masks` as a path, looked for within root first; none where it isn't set.

        Raises:
            DataError: there is nothing of that name.
        """
        given = getattr(self, argument)
        if given is None:
            return None
        for path in (self.folder / given, Path(given).expanduser()):
            if path.exists():
                return path
        raise DataError(
            f"data.{argument} is {given!r}: there is nothing of that name, neither in data.root "
            f"({self.root!r}) nor as a path of its own"
        )


@dataclass(frozen=True)
class ImageDataConfig:
    """Which labelled images.

    Args:
        name: `folder`, `cub200`, `imagenet`, `revisited`, or one that torchvision knows: `cifar10`, `cifar100`, `dtd`,
            `flowers102`, `food101`, `aircraft`, `pets`, `cars`, `eurosat`.
        root: the folder that holds the data set.
        train: split the classifiers learn from; `null` takes the data set's usual one (`folder`: train).
        val: split that is measured; `null` takes the data set's usual one (`folder`: val).
        download: fetch a data set that torchvision knows, if it isn't at `root` yet.
    """

    name: str = "folder"
    root: str = ""
    train: str | None = None
    val: str | None = None
    download: bool = False

    def __post_init__(self) -> None:
        check_choice("data.name", self.name, dict.fromkeys([*BY_HAND, *NAMED]))
