"""Windows of TIFFs of any layout, against the arrays that were written and tifffile's own reading."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rasters import all_of, checked
from tifffile import TiffFile, TiffWriter, imread, imwrite
from tiffs import page, tiff

from fungi_seg import DataError, FungiSegError
from fungi_seg.images import read_image
from fungi_seg.rasters import Window, file_of, open_raster, plane_of, planes_of, segments, shared_tiffs

GENERATOR = np.random.default_rng(5)
STACK = GENERATOR.integers(0, 60_000, (2, 3, 4, 45, 52)).astype(np.uint16)  # t, z, c, y, x
RGB = GENERATOR.integers(0, 256, (70, 90, 3)).astype(np.uint8)
LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "LZW strips": {"rowsperstrip": 7, "compression": "lzw", "predictor": True},
    "tiles": {"tile": (16, 32)},
    "deflate tiles": {"tile": (16, 16), "compression": "zlib", "predictor": True},
    "zstd": {"compression": "zstd"},
    "big-endian": {},
    "BigTIFF": {},
}


def write(path: Path, layout: str, values: np.ndarray, ome: bool = False, **more: Any) -> Path:
    order, big = ">" if layout == "big-endian" else "<", layout == "BigTIFF"
    with TiffWriter(path, bigtiff=big, byteorder=order, ome=ome) as file:
        file.write(values, **LAYOUTS[layout], **more)
    return path


def planes(axes: str) -> np.ndarray:
    """The stack with its axes in another order."""
    return np.ascontiguousarray(STACK.transpose(["TZCYX".index(axis) for axis in axes]))


def expected_of(path: Path) -> np.ndarray:
    at = plane_of(path)
    return np.moveaxis(STACK[at["t"], at["z"]], 0, -1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_planes_of_ome_tiffs(tmp_path: Path, layout: str) -> None:
    told = {
        "axes": "TZCYX",
        "PhysicalSizeX": 250,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 250,
        "PhysicalSizeYUnit": "nm",
    }
    names = {"Channel": {"Name": ["DAPI", "GFP", "RFP", "Cy5"]}}
    path = write(tmp_path / "cells.ome.tif", layout, STACK, ome=True, metadata=told | names)
    found = planes_of(path)
    assert [one.name[len(path.name) :] for one in found] == [f"[t={t},z={z}]" for t in range(2) for z in range(3)]
    for one in found:
        info = checked(one, expected_of(one))
    assert (info.kind, info.size, info.channels) == ("ome-tiff", (45, 52), ("DAPI", "GFP", "RFP", "Cy5"))
    assert (info.pixel_size, info.unit, info.dtype, info.colours) == (0.25, "µm", "uint16", False)


@pytest.mark.parametrize("axes", ["TZCYX", "TCZYX", "ZTCYX", "CZTYX", "CTZYX", "ZCTYX"])
def test_orders_of_axes_give_the_same_planes(tmp_path: Path, axes: str) -> None:
    path = tmp_path / "cells.ome.tif"
    imwrite(path, planes(axes), photometric="minisblack", metadata={"axes": axes})
    found = planes_of(path)
    assert len(found) == 6
    assert list(plane_of(found[0])) == [axis.lower() for axis in axes if axis in "TZ"]
    for one in found:
        checked(one, expected_of(one))


def test_channels_together_apart_or_in_pages(tmp_path: Path) -> None:
    cells = np.moveaxis(STACK[0, 0], 0, -1)
    for name, values, told in (
        ("YXC", cells, {"planarconfig": "contig"}),
        ("CYX", STACK[0, 0], {"planarconfig": "separate"}),
        ("tiles", STACK[0, 0], {"planarconfig": "separate", "tile": (16, 16), "compression": "zlib"}),
    ):
        path = tmp_path / f"{name}.tif"
        imwrite(path, values, photometric="minisblack", metadata=None, **told)
        assert checked(path, cells).channels == ("1", "2", "3", "4")
    path = tmp_path / "pages.ome.tif"
    imwrite(path, STACK[0, 0], photometric="minisblack", metadata={"axes": "CYX"})
    checked(path, cells)


@pytest.mark.parametrize("size", [1, 3])
def test_imagej_stacks(tmp_path: Path, size: int) -> None:
    path = tmp_path / "cells.tif"
    imwrite(path, STACK[:, :size], imagej=True, resolution=(4, 4), metadata={"axes": "TZCYX", "unit": "um"})
    for one in planes_of(path):
        at = {"z": 0, **plane_of(one)}
        info = checked(one, np.moveaxis(STACK[at["t"], at["z"]], 0, -1))
    assert (info.kind, info.pixel_size, info.unit) == ("tiff", 0.25, "µm")


def test_one_page_that_stands_for_many(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    with TiffWriter(path) as file:
        file.write(STACK[0, :, 0], photometric="minisblack", contiguous=True, truncate=True, metadata={"axes": "ZYX"})
    with TiffFile(path) as file:
        assert len(file.pages) == 1
    for number, one in enumerate(planes_of(path)):
        checked(one, STACK[0, number, 0][..., None])
    path.write_bytes(path.read_bytes()[: 3 * 45 * 52])
    with pytest.raises(DataError, match=r"large\.tif\[z=2\]: is cut off"):
        open_raster(tmp_path / "large.tif[z=2]")


def test_pages_nobody_describes(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    with TiffWriter(path) as file:
        for values in (STACK[0, 0, 0], STACK[0, 0, 1], STACK[0, 0, 2, :30, :20]):
            file.write(values, metadata=None)
    assert [one.name for one in planes_of(path)] == [f"pages.tif[page={n}]" for n in range(3)]
    for number in range(2):
        checked(tmp_path / f"pages.tif[page={number}]", STACK[0, 0, number][..., None])
    assert checked(tmp_path / "pages.tif[page=2]", STACK[0, 0, 2, :30, :20, None]).size == (30, 20)


def test_several_images_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "fields.ome.tif"
    with TiffWriter(path) as file:
        file.write(STACK[0, :, 0], metadata={"axes": "ZYX"})
        file.write(STACK[1, :, 0], metadata={"axes": "ZYX"})
    assert [one.name[len(path.name) :] for one in planes_of(path)][:4] == [
        *("[series=0,z=0]", "[series=0,z=1]", "[series=0,z=2]", "[series=1,z=0]")
    ]
    checked(tmp_path / "fields.ome.tif[series=1,z=2]", STACK[1, 2, 0][..., None])
    with TiffWriter(path) as file:
        file.write(STACK[0, :, 0], metadata={"axes": "ZYX"})
        file.write(STACK[:, 0, 0], metadata={"axes": "TYX"})
    with pytest.raises(
        DataError, match=r"holds 2 series of pictures of different axes \(z 3; t 2\).*a file of its own"
    ):
        planes_of(path)


@pytest.mark.parametrize("pages", [False, True])
def test_pyramids(tmp_path: Path, pages: bool) -> None:
    path = tmp_path / "slide.ome.tif"
    small, smaller = RGB[::2, ::2], RGB[::4, ::4]
    told: dict[str, Any] = {"photometric": "rgb", "tile": (32, 32), "compression": "zlib"}
    with TiffWriter(path if not pages else tmp_path / "slide.tif") as file:
        file.write(RGB, subifds=0 if pages else 2, metadata=None if pages else {"axes": "YXS"}, **told)
        for values in (small, smaller):
            file.write(values, subfiletype=1, metadata=None if pages else {}, **told)
    path = path if not pages else tmp_path / "slide.tif"
    assert planes_of(path) == (path,)
    info = checked(path, RGB)
    assert info.levels == ((70, 90), small.shape[:2], smaller.shape[:2])
    checked(path, small, 1)
    checked(path, smaller, 2)
    np.testing.assert_array_equal(small, imread(path, series=0, level=1))


def test_pages_of_other_sizes_are_no_smaller_copies(tmp_path: Path) -> None:
    """tifffile takes any page of half the size for one."""
    path = tmp_path / "a.tif"
    with TiffWriter(path) as file:
        file.write(RGB, photometric="rgb", metadata=None)
        file.write(RGB[::2, ::2], photometric="rgb", metadata=None)
    assert len(planes_of(path)) == 2
    assert checked(tmp_path / "a.tif[page=0]", RGB).levels == ((70, 90),)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", ["strips", "deflate tiles"])
def test_turned_pictures(tmp_path: Path, orientation: int, layout: str) -> None:
    path = write(
        tmp_path / "a.tif", layout, RGB, photometric="rgb", metadata=None, extratags=[(274, 3, 1, orientation, True)]
    )
    info = checked(path, read_image(path))
    assert info.size == ((90, 70) if orientation > 4 else (70, 90))


KINDS = {
    "palette": page(
        np.arange(70 * 9, dtype=np.uint8).reshape(70, 9), photometric=3, tags={320: [*range(0, 65536, 86)] + [0] * 5}
    ),
    "1 bit": page(GENERATOR.integers(0, 2, (40, 33)).astype(np.uint8), bits=1),
    "1 bit, white 0": page(GENERATOR.integers(0, 2, (40, 33)).astype(np.uint8), bits=1, photometric=0),
    "4 bits": page(GENERATOR.integers(0, 16, (40, 33)).astype(np.uint8), bits=4),
    "12 bits": page(GENERATOR.integers(0, 4096, (40, 33)).astype(np.uint16), bits=12),
    "white 0": page(GENERATOR.integers(0, 256, (40, 33)).astype(np.uint8), photometric=0),
    "CMYK": page(GENERATOR.integers(0, 256, (40, 33, 4)).astype(np.uint8), photometric=5),
    "signed": page(GENERATOR.integers(-500, 500, (40, 33)).astype(np.int16)),
    "float": page(GENERATOR.normal(size=(40, 33)).astype(np.float32)),
    "alpha": page(GENERATOR.integers(0, 256, (40, 33, 4)).astype(np.uint8), photometric=2, tags={338: 2}),
    "apart": page(RGB, photometric=2, separate=True),
    "bits reversed": page(RGB[..., 0], reversed_bits=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_colours_are_those_of_a_picture_read_at_once(tmp_path: Path, kind: str) -> None:
    from fungi_seg.images import InputConfig, picture

    path = tmp_path / "a.tif"
    path.write_bytes(tiff(KINDS[kind]))
    with open_raster(path) as raster:
        samples = all_of(raster)
        assert str(samples.dtype) == raster.info.dtype
        np.testing.assert_array_equal(picture(samples, raster.info, InputConfig()), read_image(path))
    checked(path, samples)


def test_jpeg_tiles_as_tifffile_decodes_them(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    imwrite(path, RGB, photometric="rgb", tile=(32, 32), compression="jpeg", metadata=None)
    checked(path, imread(path))


@pytest.mark.parametrize(("how", "oracle"), [("max", STACK.max(1)), ("mean", np.rint(STACK.mean(1)).astype(np.uint16))])
def test_projections(tmp_path: Path, how: str, oracle: np.ndarray) -> None:
    path = write(tmp_path / "cells.ome.tif", "deflate tiles", STACK, ome=True, metadata={"axes": "TZCYX"})
    found = planes_of(path, how)
    assert [one.name[len(path.name) :] for one in found] == ["[t=0]", "[t=1]"]
    for number, one in enumerate(found):
        checked(one, np.moveaxis(oracle[number], 0, -1), projection=how)


def test_one_plane_in_place_of_a_projection(tmp_path: Path) -> None:
    path = write(tmp_path / "cells.ome.tif", "strips", STACK, ome=True, metadata={"axes": "TZCYX"})
    for one in planes_of(path, "2"):
        checked(one, np.moveaxis(STACK[plane_of(one)["t"], 2], 0, -1), projection="2")
    with pytest.raises(DataError, match=r"has 3 planes along z; input\.projection 3 is beyond them"):
        open_raster(tmp_path / "cells.ome.tif[t=0]", "3")
    with pytest.raises(DataError, match=r"names a plane along z, and input\.projection max all"):
        open_raster(tmp_path / "cells.ome.tif[t=0,z=1]", "max")
    imwrite(tmp_path / "plain.tif", STACK[0, :, 0], photometric="minisblack", metadata=None)
    checked(tmp_path / "plain.tif", STACK[0, :, 0].max(0)[..., None], projection="max")
    Image.fromarray(RGB).save(tmp_path / "a.png")
    checked(tmp_path / "a.png", RGB, projection="max")


def test_addresses(tmp_path: Path) -> None:
    path = tmp_path / "a[1].tif"
    imwrite(path, STACK[0, :, 0], photometric="minisblack", metadata=None)
    assert [file_of(one) for one in planes_of(path)] == [path] * 3
    named = tmp_path / "a.tif[z=1]"
    assert (file_of(named), plane_of(named)) == (tmp_path / "a.tif", {"z": 1})
    named.write_bytes(b"")  # a file of that very name is a file
    assert (file_of(named), plane_of(named)) == (named, {})
    assert plane_of(Path("a.tif[z=3,t=12]")) == {"z": 3, "t": 12}
    with pytest.raises(DataError, match="an axis is named twice"):
        plane_of(Path("a.tif[z=3,z=1]"))
    assert file_of(Path("scan[old].tif")) == Path("scan[old].tif")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", r"holds 6 pictures along t, z, and nothing says which.*\[t=0,z=0\].*--input\.projection max"),
        ("[z=1]", r"holds 2 pictures along t, and nothing says which.*\[t=0,z=1\]"),
        ("[z=7,t=0]", r"has no z=7; its axes are t 0 to 1, z 0 to 2"),
        ("[q=1,t=0,z=0]", r"has no axis 'q'; its axes are t 0 to 1, z 0 to 2"),
    ],
)
def test_wrong_addresses(tmp_path: Path, address: str, message: str) -> None:
    path = write(tmp_path / "cells.ome.tif", "strips", STACK, ome=True, metadata={"axes": "TZCYX"})
    with pytest.raises(DataError, match=rf"cells\.ome\.tif.*: {message}"):
        open_raster(tmp_path / f"{path.name}{address}")


def test_stacks_read_as_a_picture_say_how_to_name_a_plane(tmp_path: Path) -> None:
    imwrite(tmp_path / "a.tif", STACK[0, :, 0], photometric="minisblack", metadata=None)
    with pytest.raises(DataError, match=r"a\.tif: holds 3 pages.*name one, as \[page=0\].*--input\.projection"):
        read_image(tmp_path / "a.tif")


def shown_tags(path: Path, number: int = 0) -> dict[int, Any]:
    with TiffFile(path) as file:
        return {tag.code: tag for tag in file.pages[number].tags}  # type: ignore[union-attr]


@pytest.mark.parametrize("layout", ["strips", "deflate tiles"])
def test_missing_parts_are_errors(tmp_path: Path, layout: str) -> None:
    """tifffile fills them with zeros without a word."""
    path = write(tmp_path / "a.tif", layout, RGB, photometric="rgb", metadata=None)
    tags, data = shown_tags(path), bytearray(path.read_bytes())
    counts = tags[279 if layout == "strips" else 325]
    place = counts.valueoffset
    size = 4 if counts.dtype == 4 else 2
    data[place : place + size] = bytes(size)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tif: 1 of its \d+ strips or tiles hold nothing.*write it again"):
        open_raster(path)


@pytest.mark.parametrize("layout", ["strips", "deflate tiles", "BigTIFF"])
def test_files_cut_off_are_errors(tmp_path: Path, layout: str) -> None:
    path = write(tmp_path / "a.ome.tif", layout, STACK, ome=True, metadata={"axes": "TZCYX"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(
        DataError, match=r"a\.ome\.tif\[t=1,z=2\]: (is cut off|is damaged|can't be read|its description)"
    ):
        open_raster(tmp_path / "a.ome.tif[t=1,z=2]")


def test_pictures_that_a_description_only_promises(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    imwrite(path, STACK[0, :2, 0], photometric="minisblack", metadata={"axes": "ZYX"})
    path.write_bytes(path.read_bytes().replace(b'SizeZ="2"', b'SizeZ="3"'))
    checked(tmp_path / "a.ome.tif[z=1]", STACK[0, 1, 0][..., None])
    with pytest.raises(DataError, match=r"a\.ome\.tif\[z=2\]: its description names a picture 2 that isn't there"):
        open_raster(tmp_path / "a.ome.tif[z=2]")


def test_damaged_parts_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", "LZW strips", RGB, photometric="rgb", metadata=None)
    tags, data = shown_tags(path), bytearray(path.read_bytes())
    last = tags[273].value[-1]
    data[last : last + 40] = bytes([255]) * 40
    path.write_bytes(data)
    with open_raster(path) as raster, pytest.raises(DataError, match=r"a\.tif: can't be read as an image"):
        all_of(raster)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (page(np.zeros((20, 20), np.uint16), photometric=0), "zero is white.*convert it to a TIFF whose zero is black"),
        (page(np.zeros((20, 20), np.uint8), photometric=None), "doesn't say whether its zero is black"),
        (page(np.zeros((20, 20, 3), np.uint8), photometric=8), "colours of CIELAB.*aren't read"),
        (page(np.zeros((20, 20), np.complex64)), "aren't read"),
    ],
)
def test_kinds_that_are_not_read(tmp_path: Path, made: Any, message: str) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(made))
    with pytest.raises(DataError, match=rf"a\.tif: .*{message}"):
        open_raster(tmp_path / "a.tif")


def test_volumes_in_one_page(tmp_path: Path) -> None:
    volume = {"volumetric": True, "tile": (16, 16, 16), "compression": "zlib"}
    imwrite(tmp_path / "a.tif", STACK[0, :, 0], photometric="minisblack", metadata=None, **volume)
    with pytest.raises(DataError, match=r"a\.tif: .*(ImageDepth|save the planes as pages)"):
        open_raster(tmp_path / "a.tif")


def test_windows_must_be_within(tmp_path: Path) -> None:
    imwrite(tmp_path / "a.tif", RGB, photometric="rgb")
    with open_raster(tmp_path / "a.tif") as raster:
        for window in (Window(0, 0, 71, 5), Window(-1, 0, 5, 5), Window(0, 0, 0, 5), Window(60, 88, 5, 5)):
            with pytest.raises(FungiSegError, match="isn't within level 0, 70×90"):
                raster.read(window)
        with pytest.raises(FungiSegError, match="level is 1; it must be 0 to 0"):
            raster.read(Window(0, 0, 1, 1), 1)


def test_missing_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tif: no such image file"):
        open_raster(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_text("text")
    with pytest.raises(DataError, match=r"a\.tif: can't be read as an image"):
        open_raster(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(b"II*\0")
    with pytest.raises(DataError, match=r"b\.tif: "):
        open_raster(tmp_path / "b.tif")


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ({"resolution": (20_000, 20_000), "resolutionunit": 3}, 0.5),  # pixels in a centimetre
        ({"resolution": (300, 300), "resolutionunit": 2}, None),  # dots per inch
        ({"resolution": (118, 118), "resolutionunit": 3}, None),  # the same in centimetres
        ({"resolution": (20_000, 10_000), "resolutionunit": 3}, None),  # not square
        ({"resolution": (1, 1), "resolutionunit": 1}, None),
        ({}, None),
    ],
)
def test_pixel_sizes_of_resolution_tags(tmp_path: Path, told: dict[str, Any], size: float | None) -> None:
    imwrite(tmp_path / "a.tif", RGB, photometric="rgb", metadata=None, **told)
    info = checked(tmp_path / "a.tif", RGB)
    assert (info.pixel_size, info.unit) == (size, "µm" if size else "")


@pytest.mark.parametrize(
    ("unit", "length", "size"),
    [("µm", 0.5, 0.5), ("mm", 0.001, 1.0), ("pixel", 3, None), ("reference frame", 3, None), ("m", 1e-6, 1.0)],
)
def test_units_of_ome(tmp_path: Path, unit: str, length: float, size: float | None) -> None:
    told = {f"PhysicalSize{axis}{end}": value for axis in "XY" for end, value in (("", length), ("Unit", unit))}
    imwrite(tmp_path / "a.ome.tif", RGB[..., 0], photometric="minisblack", metadata={"axes": "YX", **told})
    found = checked(tmp_path / "a.ome.tif", RGB[..., :1]).pixel_size
    assert found is None if size is None else found == pytest.approx(size)


def test_threads_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for a few decoded tiles only, so that some are decoded again."""
    monkeypatch.setattr(segments, "CACHE_BYTES", 3 * 16 * 16 * 2)
    path = write(tmp_path / "cells.ome.tif", "deflate tiles", STACK, ome=True, metadata={"axes": "TZCYX"})
    windows = [Window(top, left, 17, 19) for top in range(0, 28, 3) for left in range(0, 33, 3)]
    with ThreadPoolExecutor(8) as pool:
        for one in planes_of(path):
            with open_raster(one) as raster:
                found = list(pool.map(raster.read, windows))
            for window, values in zip(windows, found, strict=True):
                place = (slice(window.top, window.top + 17), slice(window.left, window.left + 19))
                np.testing.assert_array_equal(values, expected_of(one)[place])


def test_files_are_opened_once_for_all_planes(tmp_path: Path) -> None:
    path = write(tmp_path / "cells.ome.tif", "strips", STACK, ome=True, metadata={"axes": "TZCYX"})
    with shared_tiffs.shared_tiff(path) as one, shared_tiffs.shared_tiff(path) as other:
        assert one is other
    write(path, "strips", STACK[:, :, ::-1] + 1, ome=True, metadata={"axes": "TZCYX"})
    first = planes_of(path)[0]
    checked(first, np.moveaxis(STACK[0, 0, ::-1] + 1, 0, -1))  # of the file as it is now
    for number in range(shared_tiffs.KEPT + 2):
        imwrite(tmp_path / f"{number}.tif", RGB, photometric="rgb")
        checked(tmp_path / f"{number}.tif", RGB)
    assert sum(not shared.users for shared in shared_tiffs._open.values()) <= shared_tiffs.KEPT


def test_only_what_a_window_touches_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tif", "deflate tiles", RGB, photometric="rgb", metadata=None)
    read: list[int] = []
    original = segments.Source.read

    def noted(self: segments.Source, offset: int, count: int) -> bytes:
        read.append(offset)
        return original(self, offset, count)

    monkeypatch.setattr(segments.Source, "read", noted)
    with open_raster(path) as raster:
        raster.read(Window(17, 17, 15, 15))  # within one tile
        assert len(set(read)) == len(read) == 1
        raster.read(Window(20, 20, 3, 3))
        assert len(read) == 1


OME = """<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"
UUID="urn:uuid:00000000-0000-0000-0000-000000000000"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT"
Type="uint16" SizeX="52" SizeY="45" SizeZ="2" SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{}
</Pixels></Image></OME>"""
PART = """<TiffData FirstZ="{0}" IFD="0" PlaneCount="1">
<UUID FileName="{0}.ome.tif">urn:uuid:{0:08}-0000-0000-0000-{0:012}</UUID></TiffData>"""


def test_stacks_in_several_files(tmp_path: Path) -> None:
    told = OME.format("".join(PART.format(number) for number in range(2)))
    for number in range(2):
        own = told.replace('UUID="urn:uuid:00000000-', f'UUID="urn:uuid:{number:08}-').replace(
            '-000000000000"><Image', f'-{number:012}"><Image'
        )
        kind = {"photometric": "minisblack", "compression": "zlib", "metadata": None}
        imwrite(tmp_path / f"{number}.ome.tif", STACK[0, number, 0], description=own, **kind)
    path = tmp_path / "0.ome.tif"
    for number, one in enumerate(planes_of(path)):
        checked(one, STACK[0, number, 0][..., None])
    alone = tmp_path / "alone"
    alone.mkdir()
    path.rename(alone / path.name)
    checked(alone / "0.ome.tif[z=0]", STACK[0, 0, 0][..., None])
    with pytest.raises(DataError, match=r"0\.ome\.tif\[z=1\]: .*another file that belongs to it, is missing"):
        open_raster(alone / "0.ome.tif[z=1]")
