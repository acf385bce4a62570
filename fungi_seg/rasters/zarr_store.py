"""OME-Zarr images of versions 0.4 and 0.5, with the extra `zarr`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.errors import DataError, MissingExtra
from fungi_seg.rasters.planes import checked_plane
from fungi_seg.rasters.raster import RasterInfo, Window
from fungi_seg.rasters.reading import checked_window, damage_named, valid_samples
from fungi_seg.rasters.tiff_metadata import square
from fungi_seg.rasters.units import micrometres

DESCRIPTIONS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
READ_VERSIONS = ("0.1", "0.2", "0.3", "0.4", "0.5")
BLOSC_HEAD, BLOSC_SIZE = 16, 12  # bytes of the head of a chunk, and where it tells the length of all
BY_DEFAULT = ("t", "c", "z", "y", "x")  # the axes of versions that don't name them


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr array or group, by its descriptions."""
    return path.is_dir() and any((path / name).is_file() for name in DESCRIPTIONS)


def zarr_axes(path: Path) -> dict[str, int]:
    """How many pictures lie along each axis of an OME-Zarr image, in its order.

    Raises:
        DataError: damaged, or none.
        MissingExtra: the extra isn't installed.
    """
    with damage_named(str(path), "an image"):
        return _Image(path).axes


class _Image:
    """One multiscale image of a store, described.

    Attributes:
        axes: how many pictures lie along each axis but those of channels, rows and columns.
        levels: arrays, the largest first.
        channels: their names, where told.
        pixel_size: in micrometres, where told.
        letters: the names of all axes.
    """

    def __init__(self, path: Path):
        try:
            import zarr
        except ImportError as error:
            raise MissingExtra("zarr", error) from error
        described = _attributes(path)
        scales = described.get("multiscales")
        if not isinstance(scales, list) or not scales:
            raise DataError(f"is no OME-Zarr image: no multiscales are described in it{_near(path, described)}")
        version = str(described.get("version") or scales[0].get("version") or "0.4")
        if not version.startswith(READ_VERSIONS):
            raise DataError(f"is OME-Zarr of version {version}; {', '.join(READ_VERSIONS)} are read")
        self.letters = [_axis_name(axis) for axis in scales[0].get("axes", BY_DEFAULT)]
        if self.letters[-2:] != ["y", "x"] and not {"y", "x"} <= set(self.letters):
            raise DataError(f"its axes are {self.letters}; two of them must be y and x")
        group = zarr.open_group(str(path), mode="r")
        self.levels = [group[dataset["path"]] for dataset in scales[0]["datasets"]]
        for array in self.levels:
            if len(array.shape) != len(self.letters):
                raise DataError(f"its axes are {self.letters}, its array {array.path} has {len(array.shape)} of them")
        sizes = dict(zip(self.letters, self.levels[0].shape, strict=True))
        self.axes = {axis: count for axis, count in sizes.items() if axis not in ("c", "y", "x")}
        self.channels = _channel_names(described, sizes.get("c", 1))
        self.colours = _is_coloured(described, sizes.get("c", 1), str(self.levels[0].dtype))
        self.pixel_size = _pixel_size(scales[0], self.letters)


class ZarrRaster:
    """A plane of an OME-Zarr image, as a `Raster`.

    A chunk that isn't there is full of the array's fill value: that is Zarr's way to store it. Where none is there at
    all, or no fill value is told, something is missing.

    Args:
        path: of the image's group.
        plane: index by axis.
        name: what errors call it.
    """

    def __init__(self, path: Path, plane: Mapping[str, int], name: str):
        self.name, self._path = name, path
        self._sound: set[Path] = set()
        with damage_named(name, "an image"):
            image = _Image(path)
            self._at = checked_plane(plane, image.axes)
            self._letters, self._levels = image.letters, image.levels
            for array in self._levels:
                _check_chunks(path, array)
            dtype = np.dtype(self._levels[0].dtype)
            if dtype.kind not in "buif":
                raise DataError(f"samples of {dtype} aren't read; save them as whole numbers or floats")
            sizes = tuple(self._size(array) for array in self._levels)
            self.info = RasterInfo(
                "zarr",
                sizes[0],
                image.channels,
                "uint8" if dtype.kind == "b" else str(dtype.newbyteorder("=")),
                sizes,
                image.pixel_size,
                "" if image.pixel_size is None else "µm",
                None,
                None,
                image.colours,
                self._levels[0].metadata.zarr_format,
            )

    def _size(self, array: Any) -> tuple[int, int]:
        return int(array.shape[self._letters.index("y")]), int(array.shape[self._letters.index("x")])

    def read(self, window: Window, level: int = 0, channels: Sequence[int] | None = None) -> np.ndarray:
        """See `Raster.read`."""
        checked_window(self, window, level)
        wanted = range(len(self.info.channels)) if channels is None else channels
        parts = {
            "y": slice(window.top, window.top + window.height),
            "x": slice(window.left, window.left + window.width),
        }
        with damage_named(self.name, "an image"):
            if "c" not in self._letters:
                return self._cut(level, parts)[..., [0] * len(wanted)]
            found = sorted(set(wanted))
            if len(found) == found[-1] - found[0] + 1:
                together = self._cut(level, {**parts, "c": slice(found[0], found[-1] + 1)})
                return together[..., [number - found[0] for number in wanted]]
            each = {number: self._cut(level, {**parts, "c": slice(number, number + 1)}) for number in found}
            return np.concatenate([each[number] for number in wanted], axis=2)

    def _cut(self, level: int, parts: Mapping[str, slice]) -> np.ndarray:
        """`[height, width, channels]` of some channels."""
        places: dict[str, int | slice] = {**self._at, **parts}
        at, array = tuple(places[letter] for letter in self._letters), self._levels[level]
        if _is_blosc(array):
            self._check_lengths(array, at)
        values = np.asarray(array[at])
        left = [letter for letter in self._letters if letter in parts]
        values = values.transpose([left.index(letter) for letter in "yxc" if letter in left])
        values = values if "c" in left else values[..., None]
        if values.dtype.kind == "b":
            return values.astype(np.uint8) * np.uint8(255)
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def _check_lengths(self, array: Any, at: tuple[int | slice, ...]) -> None:
        """Refuse chunks that are cut off, of which Blosc gives whatever is in memory.

        Args:
            array: of a level.
            at: what of it is read.
        """
        sides = [
            range(part.start // n, (part.stop - 1) // n + 1) if isinstance(part, slice) else (part // n,)
            for part, n in zip(at, array.chunks, strict=True)
        ]
        for place in product(*sides):
            file = self._path / array.path / array.metadata.encode_chunk_key(place)
            if file in self._sound or not file.is_file():
                continue
            with file.open("rb") as opened:
                head = opened.read(BLOSC_HEAD)
            size = file.stat().st_size
            told = int.from_bytes(head[BLOSC_SIZE : BLOSC_SIZE + 4], "little")
            if len(head) < BLOSC_HEAD or size < told:
                raise DataError(
                    f"chunk {file.relative_to(self._path)} is cut off: {size} bytes of {told}; copy it again"
                )
            self._sound.add(file)

    def valid(self, window: Window, level: int = 0) -> np.ndarray | None:
        """See `Raster.valid`."""
        return valid_samples(self, window, level)

    def __enter__(self) -> ZarrRaster:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _is_blosc(array: Any) -> bool:
    """Whether chunks are as Blosc writes them, whose head tells how long they are."""
    told = array.metadata
    if told.zarr_format == 2:
        return getattr(told.compressor, "codec_id", "") == "blosc"
    return type(told.codecs[-1]).__name__ == "BloscCodec"


def _attributes(path: Path) -> dict[str, Any]:
    """What a group tells of itself, whatever its version; of 0.5 what stands under `ome`."""
    new, old = path / "zarr.json", path / ".zattrs"
    if new.is_file():
        attributes = json.loads(new.read_text(encoding="utf-8")).get("attributes", {})
        return dict(attributes.get("ome", attributes))
    return dict(json.loads(old.read_text(encoding="utf-8"))) if old.is_file() else {}


def _near(path: Path, described: Mapping[str, Any]) -> str:
    """A way out: the images in a folder that holds some."""
    inside = sorted(part.parent for part in path.glob("*/*") if part.name in DESCRIPTIONS)
    images = [folder for folder in dict.fromkeys(inside) if "multiscales" in _attributes(folder)]
    if "plate" in described:
        return "; it is a plate: name the image of a field, as the folder row/column/field in it"
    return f"; name one in it, as {images[0]}" if images else "; convert it to OME-Zarr"


def _axis_name(axis: object) -> str:
    return str(axis.get("name", "")).lower() if isinstance(axis, dict) else str(axis).lower()


def _channel_names(described: Mapping[str, Any], count: int) -> tuple[str, ...]:
    told = [str(channel.get("label", "")).strip() for channel in described.get("omero", {}).get("channels", [])]
    if len(told) == count and all(told) and len(set(told)) == count:
        return tuple(told)
    return tuple(str(number) for number in range(1, count + 1))


def _is_coloured(described: Mapping[str, Any], count: int, dtype: str) -> bool:
    """Whether channels are grey, or three of 8 bits shown in red, green and blue."""
    told = [str(channel.get("color", "")).upper() for channel in described.get("omero", {}).get("channels", [])]
    return count == 1 or (told == ["FF0000", "00FF00", "0000FF"] and dtype == "uint8")


def _pixel_size(scale: Mapping[str, Any], letters: list[str]) -> float | None:
    """In micrometres; a scale without a unit is none."""
    axes = scale.get("axes", ())
    steps = [1.0] * len(letters)
    for change in [
        *scale["datasets"][0].get("coordinateTransformations", ()),
        *scale.get("coordinateTransformations", ()),
    ]:
        if change.get("type") == "scale" and len(change.get("scale", ())) == len(letters):
            steps = [step * float(factor) for step, factor in zip(steps, change["scale"], strict=True)]
    found = []
    for letter in ("x", "y"):
        place = letters.index(letter)
        unit = axes[place].get("unit", "") if len(axes) > place and isinstance(axes[place], dict) else ""
        found.append(micrometres(steps[place], str(unit)))
    return square(found[0], found[1])


def _check_chunks(path: Path, array: Any) -> None:
    """Refuse an array of which nothing is there, or of whose missing chunks nothing tells what they hold."""
    folder = path / array.path
    files = (file for file in folder.rglob("*") if file.is_file() and file.name not in (*DESCRIPTIONS, ".zmetadata"))
    if array.metadata.zarr_format == 2 and array.metadata.fill_value is None:
        there, wanted = sum(1 for _ in files), int(np.prod(array.cdata_shape))
        if there < wanted:
            raise DataError(
                f"{wanted - there} of the {wanted} chunks of {array.path} aren't there, and no fill value tells what "
                f"they hold; copy it again"
            )
    elif next(files, None) is None:
        raise DataError(f"none of the chunks of {array.path} is there; copy it again")
