"""What TIFF files tell of channels and pixel sizes: in OME's description, ImageJ's, or resolution tags."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from tifffile import TiffFile, TiffPage

from fungi_seg.rasters.units import micrometres

NOT_SQUARE = 0.01  # sides that differ by more have no one width
RESOLUTION_UNITS = {3: "cm", 4: "mm", 5: "µm"}  # an inch is what printers and screens go by
WIDEST = 40.0  # micrometres: resolutions in centimetres below are printers', too


@dataclass(frozen=True)
class OmeImage:
    """What OME tells of one image.

    Attributes:
        channels: names; nothing where not all have one.
        pixel_size: in micrometres, where told.
    """

    channels: tuple[str, ...] = ()
    pixel_size: float | None = None


def ome_images(tiff: TiffFile) -> list[OmeImage]:
    """Of an OME-TIFF, in the order of its images; nothing where it is none, or its description can't be read."""
    try:
        root = ElementTree.fromstring(tiff.ome_metadata or "")
    except ElementTree.ParseError:
        return []
    return [_ome_image(image) for image in root.iter() if image.tag.rpartition("}")[2] == "Image"]


def _ome_image(image: ElementTree.Element) -> OmeImage:
    pixels = next((part for part in image if part.tag.endswith("Pixels")), None)
    if pixels is None:
        return OmeImage()
    names = [part.get("Name", "").strip() for part in pixels if part.tag.rpartition("}")[2] == "Channel"]
    sides = [
        micrometres(_number(pixels.get(f"PhysicalSize{axis}")), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "XY"
    ]
    return OmeImage(tuple(names) if all(names) and len(set(names)) == len(names) else (), square(*sides))


def names_other_files(tiff: TiffFile) -> bool:
    """Whether OME says that some of its pictures are in other files."""
    try:
        root = ElementTree.fromstring(tiff.ome_metadata or "")
    except ElementTree.ParseError:
        return False
    own = root.get("UUID")
    return any(part.text != own for part in root.iter() if part.tag.rpartition("}")[2] == "UUID")


def imagej_pixel(tiff: TiffFile) -> float | None:
    """Width of a pixel in micrometres, by ImageJ's unit and the resolution tags."""
    unit = str((tiff.imagej_metadata or {}).get("unit", ""))
    return square(*(micrometres(side, unit) for side in _sides(tiff.pages.first)))


def resolution_pixel(page: TiffPage) -> float | None:
    """Width of a pixel in micrometres, by the resolution tags, where they can't be meant for printing."""
    unit = RESOLUTION_UNITS.get(int(page.tags.valueof(296, 2) or 2))
    if unit is None:
        return None
    found = square(*(micrometres(side, unit) for side in _sides(page)))
    return found if found is not None and found <= WIDEST else None


def square(width: float | None, height: float | None) -> float | None:
    """The width of pixels that are as high as wide."""
    if width is None or height is None or abs(width - height) > NOT_SQUARE * width:
        return None
    return width


def _sides(page: TiffPage) -> tuple[float | None, float | None]:
    """Width and height of a pixel in the page's unit, by the tags XResolution and YResolution."""
    sides: list[float | None] = []
    for tag in (282, 283):
        value = page.tags.valueof(tag)
        counted = value if isinstance(value, tuple) and len(value) == 2 and all(value) else None
        sides.append(counted[1] / counted[0] if counted else None)
    return sides[0], sides[1]


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
