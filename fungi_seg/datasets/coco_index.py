"""Images and categories of a COCO JSON, by id."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fungi_seg.datasets.coco_json import CocoImage, elements, image_fault, image_name, image_size
from fungi_seg.datasets.paths import by_form, composed
from fungi_seg.datasets.regions import entry
from fungi_seg.datasets.shapes import whole
from fungi_seg.errors import DataError, listing


@dataclass(frozen=True)
class CocoIndex:
    """Images and categories of a COCO JSON, by id.

    Attributes:
        source: the file, for messages.
        images: by image id.
        categories: names by category id.
    """

    source: str
    images: dict[int, CocoImage]
    categories: dict[int, str]

    @property
    def image_ids(self) -> dict[str, int]:
        """Image ids by file name without suffix.

        Raises:
            DataError: a name stands for several.
        """
        return self._by_name("images", {number: image_name(image.file) for number, image in self.images.items()})

    @property
    def category_ids(self) -> dict[str, int]:
        """Category ids by name.

        Raises:
            DataError: a name stands for several.
        """
        return self._by_name("categories", self.categories)

    def _by_name(self, what: str, names: Mapping[int, str]) -> dict[str, int]:
        twice = [f"{name} ({count})" for name, count in Counter(names.values()).items() if count > 1]
        if twice:
            raise DataError(f"{self.source}: several {what} have one name:\n{listing(twice)}\nRename all but one")
        return {name: number for number, name in names.items()}


def read_index(path: Path) -> CocoIndex:
    """Images and categories of a COCO JSON, however many annotations it holds.

    Raises:
        DataError: it can't be read, isn't such a JSON, or gives an id twice.
    """
    images: dict[int, CocoImage] = {}
    categories: dict[int, str] = {}
    for key, _, _, value in elements(path, ("images", "categories")):
        known: Collection[int] = images if key == "images" else categories
        try:
            number = _id(value)
            if number in known:
                raise DataError(f"an earlier one has the id {number}, too; ids must differ")
            if key == "images":
                images[number] = _image(number, value)
            else:
                categories[number] = entry(value, "name", str)
        except DataError as error:
            raise DataError(f"{path}: {key}[{len(known)}]: {error}") from error
    return CocoIndex(str(path), images, categories)


def _id(value: Any) -> int:
    given = value.get("id") if isinstance(value, dict) else None
    number = whole(given)
    if number is None:
        raise DataError(f"id is {given!r:.80}; it must be a whole number")
    return number


def _image(number: int, value: Any) -> CocoImage:
    file = entry(value, "file_name", str)
    sides = (value.get("height"), value.get("width"))
    why = image_fault(file, sides)
    if why:
        raise DataError(why)
    return CocoImage(number, file, image_size(sides))


def match_names(wanted: Mapping[str, str], known: Collection[str]) -> dict[str, str]:
    """For each wanted name the known one: itself, or the only one whose last part is the same as the file's.

    Names that differ only in their Unicode form are the same.

    Args:
        wanted: the stem of the file by name.
        known: names, folders divided by `/`.

    Returns:
        Known names by wanted ones; what isn't known is left out.
    """
    stems, forms = Counter(map(composed, wanted.values())), by_form(known)
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in known:
        by_stem[composed(PurePosixPath(name).name)].append(name)
    found = {}
    for name, stem in ((name, composed(stem)) for name, stem in wanted.items()):
        if name in known or composed(name) in forms:
            found[name] = name if name in known else forms[composed(name)]
        elif stems[stem] == 1 and len(by_stem[stem]) == 1:
            found[name] = by_stem[stem][0]
    return found
