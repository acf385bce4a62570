"""What a large image takes: `python tools/large_images.py IMAGES --bank B --out DIR`.

Makes mosaics of IMAGES as BigTIFF, OME-Zarr or GeoTIFF, and segments them as a user would, in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from machine import processor
from timing import turns

from fungi_seg import Segmenter
from fungi_seg.cli import tool
from fungi_seg.images import Blend, InputOptions, opened_view, read_image, scaled_to
from fungi_seg.rasters import Window
from fungi_seg.segmentation import LargeImage

TILE = 512


class Mosaic:
    """An image of any size, put together from others; tile by tile, so that none of it is held.

    Args:
        folder: of the images.
        side: of the mosaic, in pixels.
    """

    def __init__(self, folder: Path, side: int):
        self.side, generator = side, np.random.default_rng(0)
        images = [scaled_to(read_image(path), 2 * TILE) for path in sorted(folder.iterdir())[:16]]
        self._tiles = [np.ascontiguousarray(np.resize(image, (TILE, TILE, 3))) for image in images]
        self._which = generator.integers(len(self._tiles), size=(-(-side // TILE),) * 2)

    def tiles(self) -> Iterator[tuple[Window, np.ndarray]]:
        """Each part, row by row."""
        for (down, across), which in np.ndenumerate(self._which):
            top, left = down * TILE, across * TILE
            window = Window(top, left, min(TILE, self.side - top), min(TILE, self.side - left))
            yield window, self._tiles[which][: window.height, : window.width]


def write_tiff(mosaic: Mosaic, path: Path) -> None:
    """As BigTIFF."""
    from tifffile import TiffWriter

    shape = mosaic.side, mosaic.side, 3
    with TiffWriter(path, bigtiff=True) as file:
        tiles = (tile for _, tile in mosaic.tiles())
        file.write(tiles, shape=shape, dtype=np.uint8, tile=(TILE, TILE), photometric="rgb", compression="zlib")


def write_zarr(mosaic: Mosaic, path: Path) -> None:
    """As OME-Zarr 0.5 of one level."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=3)
    shape, chunks = (3, mosaic.side, mosaic.side), (3, TILE, TILE)
    array = group.create_array("0", shape=shape, chunks=chunks, dtype="uint8", dimension_names=["c", "y", "x"])
    for window, tile in mosaic.tiles():
        rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
        array[:, rows, columns] = tile.transpose(2, 0, 1)
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    scale = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
    scales = [{"name": "mosaic", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": scales}


def write_geotiff(mosaic: Mosaic, path: Path) -> None:
    """As GeoTIFF."""
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window as Part

    form = {"driver": "GTiff", "tiled": True, "blockxsize": TILE, "blockysize": TILE, "compress": "deflate"}
    place = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_000_000, 0.5, 0.5)}
    side = {"width": mosaic.side, "height": mosaic.side, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", BIGTIFF="YES", photometric="RGB", **form, **place, **side) as file:
        for window, tile in mosaic.tiles():
            part = Part(window.left, window.top, tile.shape[1], tile.shape[0])
            file.write(tile.transpose(2, 0, 1), window=part)


WRITERS = {"mosaic.tif": write_tiff, "mosaic.ome.zarr": write_zarr, "geo.tif": write_geotiff}


def large_images(
    images: str, bank: str, out: str, side: int = 40_000, scale: float = 0.1, tile: int = 512, kinds: str = "all"
) -> None:
    """Make the mosaics that aren't there, segment them, and print what that took.

    Args:
        images: folder of images to make them of.
        bank: folder of the bank.
        out: folder for mosaics and results.
        side: of the mosaics in pixels.
        scale: at which they enter.
        tile: side of the tiles, in pixels of the input.
        kinds: names of the mosaics, or all.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{processor()}, {side}×{side} pixels, input.scale {scale}, input.tile {tile}")
    names = list(WRITERS) if kinds == "all" else kinds.split(",")
    for name in names:
        path = folder / name
        if not path.exists():
            WRITERS[name](Mosaic(Path(images), side), path)
        started = time.perf_counter()
        results = folder / f"results-{side}-{scale}"
        asked = [f"--input.scale={scale}", f"--input.tile={tile}", "--overwrite", "--quiet"]
        command = [sys.executable, "-m", "fungi_seg", "segment", str(path), "--bank", bank, "--out", str(results)]
        subprocess.run([*command, *asked], check=True)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        segmenter = Segmenter(bank).entering(InputOptions(scale=scale, tile=tile))
        with opened_view(path, segmenter.input, segmenter.features.backbone.patch_size) as view:
            count = len(view.tiles)
        took = f"{seconds:.1f} s, {seconds / count:.3f} s a tile"
        print(f"{name}: {count} tiles, {took}, at most {peak:.0f} MB (of this and those before)", flush=True)
    _throughput(folder / names[0], Segmenter(bank).entering(InputOptions(scale=scale, tile=tile)))


def _throughput(path: Path, segmenter: Segmenter, rows: int = 2) -> None:
    """Tiles a second on the way to a mask, against the same tiles as plain batches through the backbone."""
    with opened_view(path, segmenter.input, segmenter.features.backbone.patch_size) as view:
        image, row = LargeImage(segmenter, view, path.name), view.tiles.row(0)
        ph, pw = segmenter.features.backbone.patch_size
        parts = [view.part(range(len(t.rows) * ph), range(t.columns.start * pw, t.columns.stop * pw)) for t in row]
        tensors = [torch.from_numpy(part).permute(2, 0, 1) for part in parts]

        def plain() -> None:
            for _ in segmenter.features.of_tiles(tensors * rows, path.name):
                pass

        def whole() -> None:
            blend = Blend(view.tiles)
            scored = [image.scored(number, blend) for number in range(rows)]
            for _ in image.mask(range(image.ready(scored[-1].stop)), scored):
                pass

        times = turns({"plain": plain, "whole": whole}, 3, 1)
    print(
        f"{rows * len(row)} tiles: {times.median('plain'):.2f} s as plain batches; {times.median('whole'):.2f} s read,"
    )
    print(f"searched and made into rows of the mask: {times.ratio('plain', 'whole'):.2f} of the throughput")


if __name__ == "__main__":
    sys.exit(tool(large_images))
