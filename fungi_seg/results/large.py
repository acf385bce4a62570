"""An image that doesn't fit into memory to its mask, its confidence and its record."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tifffile import TiffWriter

from fungi_seg.datasets import DEFAULT_VOID_16, void_value
from fungi_seg.errors import FungiSegError
from fungi_seg.files import digest, replacing
from fungi_seg.images import Blend, RunConfig, View
from fungi_seg.progress import track
from fungi_seg.rasters import Window, mask_suffix, write_mask
from fungi_seg.results.large_draft import LEVELS, MASK, LargeDraft, RowsAtHand
from fungi_seg.results.large_objects import MARGIN, objects_in_windows
from fungi_seg.results.names import DRAFTS
from fungi_seg.results.polygons import write_polygons
from fungi_seg.results.records import BINS, ImageRecord, object_row
from fungi_seg.results.settings import ResultsConfig
from fungi_seg.results.thumbnails import LARGE, save_views
from fungi_seg.segmentation import (
    LEVELS as TOP,
    LargeImage,
    ScoredRows,
    Segmentation,
    Segmenter,
    patches_at,
)

log = logging.getLogger(__name__)
STRIP = 2**24  # pixels that are looked at together
TILE = 512  # of the files of confidence


@dataclass(frozen=True)
class LargeJob:
    """One large image, and what becomes of it.

    Attributes:
        segmenter: bank, decoder and index.
        view: the image at its scale.
        name: of its results.
        folder: of all results.
        config: what is written.
        purpose: whatever results depend on, as JSON can hold it.
        run_config: threads that read ahead, and whether progress is reported.
    """

    segmenter: Segmenter
    view: View
    name: str
    folder: Path
    config: ResultsConfig
    purpose: Any
    run_config: RunConfig

    def run(self) -> ImageRecord:
        """Segment the image; stopped and called again, it goes on where it was, and writes the same bytes.

        Returns:
            Its record, but for `file` and `sha256`.

        Raises:
            DataError: it is damaged somewhere.
            FungiSegError: something is asked for that can't be made of so large an image, or a file can't be written.
        """
        self._check()
        classes = len(self.segmenter.bank.info.classes)
        dtype = np.dtype(np.uint8 if classes <= 256 else np.uint16)
        place = self.folder / DRAFTS / digest(self.name)[:16]  # of its own for each name, however long
        draft = LargeDraft(place, self.purpose, self.view.size, self.view.tiles.grid, dtype, LARGE)
        image = LargeImage(self.segmenter, self.view, self.view.raster.name, self.run_config.load.workers)
        votes = self._scored(image, draft)
        record = _Found(self, draft, image).written(votes)
        draft.remove()
        return record

    def _check(self) -> None:
        config = self.config
        asked = {
            "--scores": config.scores,
            "--coco.file": bool(config.coco.file),
            "--confidence png (tiff is made)": "png" in config.confidence,
            f"--masks.format {config.masks.format} (auto is made)": config.masks.format != "auto",
        }
        refused = [name for name, wanted in asked.items() if wanted]
        if refused:
            size = "×".join(map(str, self.view.size))
            raise FungiSegError(
                f"{self.view.raster.name}: has {size} pixels (height×width), so that it is segmented piece by piece, "
                f"of which {' and '.join(refused)} can't be made; leave that out, or cut the image into parts"
            )

    def _scored(self, image: LargeImage, draft: LargeDraft) -> np.ndarray:
        """All rows into the draft; the votes of the annotated images."""
        parts: list[ScoredRows] = []
        started, carried = perf_counter() - draft.seconds, None
        for number in range(draft.first, draft.tiles):
            part, carried = draft.part(number)
            parts.append(part)
        blend = Blend(image.tiles, carried)
        votes = parts[-1].votes if parts else np.zeros(len(self.segmenter.bank.info.sources))
        left = range(draft.tiles, image.rows_of_tiles)
        parts = _written(image, draft, parts)
        for number in track(left, len(left), self.name, "rows of tiles", show=self.run_config.progress):
            part = image.scored(number, blend)
            votes = votes + part.votes
            part = replace(part, votes=votes)
            draft.add(number, part, blend.carried, perf_counter() - started)
            parts = _written(image, draft, [*parts, part])
        return votes


def _written(image: LargeImage, draft: LargeDraft, parts: list[ScoredRows]) -> list[ScoredRows]:
    """Write the rows of pixels that are ready; the parts that further ones need."""
    stop = image.ready(parts[-1].stop) if parts else 0
    if stop <= draft.rows:
        return parts
    draft.write(image.mask(range(draft.rows, stop), parts), stop)
    kept = [part for part in parts if part.stop > image.needed(stop)]
    draft.forget(draft.tiles - len(kept))
    return kept


class _Found:
    """A large image whose scores are all known."""

    def __init__(self, job: LargeJob, draft: LargeDraft, image: LargeImage):
        self._job, self._draft, self._size = job, draft, job.view.size
        self._classes = job.segmenter.bank.info.classes
        self._void = void_value(len(self._classes))
        self._worth, self._unlike = None, draft.unlike()
        calibration = job.segmenter.calibration
        if calibration:
            counts = np.zeros(TOP + 1, np.int64)
            for rows in self._strips():
                counts += np.bincount(draft.read(LEVELS, rows).ravel(), minlength=TOP + 1)
            self._worth = calibration.levels(counts, image.mean(calibration(draft.best())))
        self._down, self._across = patches_at(self._size, job.view.covered, job.view.tiles.grid)

    def written(self, votes: np.ndarray) -> ImageRecord:
        """Write all files; the record."""
        job, config = self._job, self._job.config
        bank, info = job.segmenter.bank.info, job.view.raster.info
        mask = job.folder / f"masks/{job.name}{mask_suffix(info)}"
        wide = self._void == DEFAULT_VOID_16
        read, dtype = RowsAtHand(self._mask, self._size[1]), np.dtype(np.uint16 if wide else np.uint8)
        classes, palette = bank.classes, job.segmenter.palette
        made = write_mask(mask, read, self._size, dtype, info, classes, palette, self._void)
        files = [path.relative_to(job.folder).as_posix() for path in made]
        for suffix in config.polygons:
            files.append(f"polygons/{job.name}.{suffix}")
            write_polygons(
                job.folder / files[-1], RowsAtHand(self._mask, self._size[1]), info, classes, palette, self._void
            )
        if config.confidence:
            files.append(f"confidence/{job.name}.tiff")
            with replacing(job.folder / files[-1]) as draft:
                self._write_confidence(draft)
        notes = [f"segmented in {len(job.view.tiles)} tiles"]
        objects = None
        if config.objects:
            sure = self._sure if self._worth is not None else None
            objects, cut = objects_in_windows(self._size, self._mask, sure, self._classes, config.objects)
            if cut:
                notes.append(f"{cut} objects are larger than {MARGIN} pixels and may be counted by their parts")
                log.warning("%s: %s", job.view.raster.name, notes[-1])
        if config.report:
            views, said = save_views(self._small(), job.folder, job.name)
            files, notes = files + views, said + notes
        record = self._record(votes, tuple(files), "; ".join(notes))
        return record if objects is None else replace(record, objects=tuple(map(object_row, objects)))

    def _strips(self) -> Iterator[Window]:
        height, width = self._size
        step = max(1, STRIP // width)
        return (Window(top, 0, min(step, height - top), width) for top in range(0, height, step))

    def _mask(self, window: Window) -> np.ndarray:
        """`[h, w]` class indices, void where unknown or where the image holds nothing."""
        mask = self._draft.read(MASK, window)
        if self._void == DEFAULT_VOID_16:
            mask = mask.astype(np.uint16)
        if self._job.config.unknown is not None:
            sure = self._sure(window)
            mask[(sure < self._job.config.unknown) | (sure == 0)] = self._void
        valid = self._job.view.raster.valid(window)
        if valid is not None:
            mask[~valid] = self._void
        return mask

    def _sure(self, window: Window) -> np.ndarray:
        """`[h, w]` float32, as `Segmentation.sure`."""
        levels = self._draft.read(LEVELS, window)
        if self._worth is None:
            found: np.ndarray = levels / np.float32(TOP)
            return found
        down = self._down[window.top : window.top + window.height]
        across = self._across[window.left : window.left + window.width]
        return np.where(self._unlike[down][:, across], 0, self._worth[levels])

    def _write_confidence(self, path: Path) -> None:
        read = RowsAtHand(self._sure, self._size[1])
        height, width = self._size

        def tiles() -> Iterator[np.ndarray]:
            for top in range(0, height, TILE):
                for left in range(0, width, TILE):
                    yield read(Window(top, left, min(TILE, height - top), min(TILE, width - left)))

        with TiffWriter(path, bigtiff=height * width * 4 > 2**31) as file:
            file.write(
                tiles(),
                shape=self._size,
                dtype=np.float32,
                tile=(TILE, TILE),
                compression="zlib",
                photometric="minisblack",
            )

    def _small(self) -> Segmentation:
        """The image and its mask, made small."""
        job = self._job
        image = self._draft.preview(job.view.covered)
        down, across = (
            ((np.arange(small) + 0.5) * full / small).astype(np.int64)
            for small, full in zip(image.shape, self._size, strict=False)
        )
        mask = np.stack([self._mask(Window(row, 0, 1, self._size[1]))[0, across] for row in down.tolist()])
        empty = torch.empty(len(self._classes), 0, 0)
        return Segmentation(mask, empty, (0.0, 0.0), self._classes, job.segmenter.palette, image)

    def _record(self, votes: np.ndarray, files: tuple[str, ...], note: str) -> ImageRecord:
        classes = len(self._classes)
        pixels, bins, sure = np.zeros(self._void + 1, np.int64), np.zeros(BINS, np.int64), 0.0
        for rows in self._strips():
            pixels += np.bincount(self._mask(rows).ravel(), minlength=self._void + 1)
            values = self._sure(rows)
            sure += float(values.sum(dtype=np.float64))
            bins += np.bincount(np.minimum(values.ravel() * BINS, BINS - 1).astype(np.uint8), minlength=BINS)
        total = self._size[0] * self._size[1]
        return ImageRecord(
            name=self._job.name,
            file="",
            sha256="",
            width=self._size[1],
            height=self._size[0],
            pixels=tuple((int(index), int(pixels[index])) for index in np.flatnonzero(pixels[:classes])),
            unknown=int(pixels[classes:].sum()),
            sure=sure / total,
            calibrated=self._worth is not None,
            histogram=tuple(bins.tolist()),
            voters=self._job.segmenter.named(votes),
            seconds=round(self._draft.seconds, 4),
            files=files,
            note=note,
        )
