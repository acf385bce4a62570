"""Features and label histograms of all patches of a data set on disk, computed once and memory-mapped."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from fungi_seg.bank import patch_histograms
from fungi_seg.datasets import Dataset, about
from fungi_seg.errors import DataError, FungiSegError
from fungi_seg.features import PatchFeatures
from fungi_seg.files import digest, replacing
from fungi_seg.images import Fitted, InputConfig, RunConfig, fit_mask, same_size_batches
from fungi_seg.progress import prefetch, track
from fungi_seg.provenance import feature_code
from fungi_seg.rasters import stamp_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PatchCache:
    """All patches of a data set; those of an image stand together, row-major, in the order of the images.

    Attributes:
        keys: `[P, D]` L2-normalised features, float16 or float32, memory-mapped.
        histograms: `[P, C]` pixels of each class, unsigned, memory-mapped.
        grids: `(h, w)` patches of each image.
        contents: `(height, width)` in pixels of each image at input size, without padding.
        patch: `(height, width)` of a patch in pixels.
        made_of: stands for all that features and histograms depend on.
    """

    keys: np.ndarray
    histograms: np.ndarray
    grids: tuple[tuple[int, int], ...]
    contents: tuple[tuple[int, int], ...]
    patch: tuple[int, int]
    made_of: str

    def images(self) -> Iterator[slice]:
        """The rows of each image."""
        start = 0
        for h, w in self.grids:
            yield slice(start, start + h * w)
            start += h * w


def cached_patches(
    dataset: Dataset,
    features: PatchFeatures,
    input: InputConfig,
    path: Path,
    dtype: type[np.floating],
    run: RunConfig,
) -> PatchCache:
    """What `path` holds if it was made of the same, otherwise computed and kept there, whole or not at all.

    Args:
        dataset: annotated images.
        features, input: what a patch feature is, how images enter.
        path: of the files, without their endings: `.json`, `-keys.npy`, `-histograms.npy`.
        dtype: of the keys.
        run: batch size, reading threads and progress.

    Raises:
        DataError: an image or mask can't be used.
        FungiSegError: features that aren't finite, or the files can't be written.
    """
    settings = _settings(dataset, features, input, dtype)
    found = _read(path, settings, features.backbone.patch_size)
    if isinstance(found, str):
        if found:
            log.warning("%s: %s; computed anew", path, found)
        _write(path, settings, dataset, features, input, dtype, run)
        found = _read(path, settings, features.backbone.patch_size)
        if isinstance(found, str):
            raise FungiSegError(f"{path}: {found} since it was written; let no one else write there, and run it again")
    else:
        log.info("%s: features of %d images are there already", path, len(dataset))
    return found


def _settings(dataset: Dataset, features: PatchFeatures, input: InputConfig, dtype: type) -> dict[str, Any]:
    """All that features and histograms depend on, by what a person would have changed."""
    files = [[item.id, *map(stamp_of, (item.image, item.mask))] for item in dataset.items]
    settings = {
        "backbone": [features.backbone.fingerprint, str(features.backbone.dtype)],
        "features": asdict(features.config),
        "input": asdict(input),
        "classes": dataset.reading,
        "images": digest(files),
        "type": np.dtype(dtype).str,
        "versions": feature_code(),
    }
    loaded: dict[str, Any] = json.loads(json.dumps(settings))
    return loaded


def _file(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name}-{kind}.npy")


def _read(path: Path, settings: dict[str, Any], patch: tuple[int, int]) -> PatchCache | str:
    """The cache at `path`, or why it doesn't serve; an empty reason if there is none."""
    manifest = path.with_suffix(".json")
    if not manifest.exists():
        return ""
    try:
        kept = json.loads(manifest.read_text(encoding="utf-8"))
        if kept["fingerprint"] != digest(settings):
            changed = [name for name, value in settings.items() if kept["settings"].get(name) != value]
            return f"the features there were made of other {', '.join(changed)}"
        keys, histograms = (np.load(_file(path, kind), mmap_mode="r") for kind in ("keys", "histograms"))
        grids, contents = (tuple((int(y), int(x)) for y, x in kept[name]) for name in ("grids", "contents"))
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"the features there are damaged ({error})"
    if not len(keys) == len(histograms) == sum(h * w for h, w in grids):
        return "the features there are damaged (the files don't fit each other)"
    return PatchCache(keys, histograms, grids, contents, patch, str(kept["fingerprint"]))


def _write(
    path: Path,
    settings: dict[str, Any],
    dataset: Dataset,
    features: PatchFeatures,
    input: InputConfig,
    dtype: type,
    run: RunConfig,
) -> None:
    manifest, patch = path.with_suffix(".json"), features.backbone.patch_size
    manifest.unlink(missing_ok=True)  # without it the arrays count for nothing
    grids: list[tuple[int, int]] = []
    contents: list[tuple[int, int]] = []
    pixels = np.min_scalar_type(patch[0] * patch[1])

    def prepare(index: int) -> tuple[Fitted, np.ndarray]:
        try:
            sample = dataset[index]
            fitted = features.fit_image(sample.image, input.at(sample.pixel_size))
            return fitted, patch_histograms(fit_mask(sample.mask, fitted.input, patch), patch, len(dataset.classes))
        except DataError as error:
            raise about(dataset.items[index], error) from error

    prepared = prefetch(prepare, range(len(dataset)), run.load.workers)
    shown = track(prepared, len(dataset), f"features, {path.name}", show=run.progress)
    with (
        _growing(_file(path, "keys"), features.dim, dtype) as keys,
        _growing(_file(path, "histograms"), len(dataset.classes), pixels) as histograms,
    ):
        for batch in same_size_batches(shown, run.load.batch_size, lambda pair: pair[0]):
            names = [item.id for item in dataset.items[len(grids) : len(grids) + len(batch)]]
            keys.append(features.of([fitted for fitted, _ in batch], names).flatten(0, 1).cpu().numpy())
            histograms.append(np.concatenate([counts for _, counts in batch]))
            grids += [(fitted.image.shape[1] // patch[0], fitted.image.shape[2] // patch[1]) for fitted, _ in batch]
            contents += [fitted.content for fitted, _ in batch]
    kept = {"fingerprint": digest(settings), "settings": settings, "grids": grids, "contents": contents}
    with replacing(manifest) as draft:
        draft.write_text(json.dumps(kept), encoding="utf-8")


class _Rows:
    """An npy file to which rows are appended."""

    def __init__(self, file: BinaryIO, width: int, dtype: Any):
        self._file, self._width, self._dtype, self._rows = file, width, np.dtype(dtype), 0
        self.write_header()

    def append(self, rows: np.ndarray) -> None:
        """Write `[n, width]` rows at the end."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self._rows += len(rows)

    def write_header(self) -> None:
        """Tell the number of rows; numpy leaves room for a larger one, so that the header keeps its length."""
        self._file.seek(0)
        shape = (self._rows, self._width)
        npy.write_array_header_1_0(
            self._file, {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        )


@contextmanager
def _growing(path: Path, width: int, dtype: Any) -> Iterator[_Rows]:
    """Rows that become the npy file `path` when all went well."""
    with replacing(path) as draft, draft.open("wb") as file:
        rows = _Rows(file, width, dtype)
        yield rows
        rows.write_header()
