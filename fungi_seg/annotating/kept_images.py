"""Features of a folder's images, computed once: on disk, and the last ones in memory."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fungi_seg.annotating.live import Query
from fungi_seg.errors import DataError, FungiSegError
from fungi_seg.features import PatchFeatures
from fungi_seg.files import digest, save_arrays
from fungi_seg.images import Fitted, InputConfig, pixel_size_in, read_image, scaled_to, viewable
from fungi_seg.provenance import code_of, feature_code
from fungi_seg.rasters import stamp_of

MOST_PATCHES = 1 << 15  # of an image; memory and time of the backbone grow with their square
SMALL = 256  # pixels of the longer side
WHOLE = 3  # images that are kept as they are, for the page
MOST_BYTES = 4 << 30  # of all files
COUNTED = 64  # files after which their size is looked at

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """What is known of an image without reading it.

    Attributes:
        query: its features.
        small: `[h, w, 3]` uint8, made smaller.
        size: `(H, W)` of the image.
    """

    query: Query
    small: np.ndarray
    size: tuple[int, int]

    @property
    def mean(self) -> np.ndarray:
        """`[D]` float32 mean feature, of length 1."""
        mean = self.query.rows.mean(0)
        found: np.ndarray = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return found


@dataclass(frozen=True)
class Whole:
    """An image with its pixels: `[H, W, 3]` uint8, and what is known of it."""

    image: np.ndarray
    fitted: Fitted
    kept: Kept


class KeptImages:
    """Images by name, with their features. Threads may ask at the same time.

    Args:
        images: files by name.
        features: how features are made.
        input: how images enter.
        folder: where features are kept.
    """

    def __init__(self, images: Mapping[str, Path], features: PatchFeatures, input: InputConfig, folder: Path):
        self._images, self._features, self._input, self._folder = images, features, input, folder
        made = [features.backbone.fingerprint, asdict(features.config.deciding), asdict(input)]
        self._made = [*made, str(features.backbone.dtype), code_of(feature_code())]
        self._whole: OrderedDict[str, tuple[list[int], Whole]] = OrderedDict()
        self._lock, self._written = Lock(), 0

    def get(self, name: str) -> Kept:
        """What is known of an image.

        Raises:
            DataError: it can't be read, or is too small.
        """
        path = self._file(name)
        try:
            found = load_file(path)
            height, width = found["size"].tolist()
            covered = tuple(found["covered"].tolist())
            return Kept(Query(name, found["features"], (covered[0], covered[1])), found["small"], (height, width))
        except (OSError, SafetensorError, KeyError, ValueError):  # not there, or cut off
            return self._computed(name).kept

    def whole(self, name: str) -> Whole:
        """An image with its pixels; the last ones asked for are in memory.

        Raises:
            DataError: it can't be read, or is too small.
        """
        now = stamp_of(self._images[name])
        with self._lock:
            known = self._whole.get(name)
            if known and known[0] == now:
                self._whole.move_to_end(name)
                return known[1]
        image, fitted = self._entered(name)
        found = Whole(image, fitted, self.get(name)) if self._file(name).is_file() else self._of(name, image, fitted)
        with self._lock:
            self._whole[name] = now, found
            while len(self._whole) > WHOLE:
                self._whole.popitem(last=False)
        return found

    def _computed(self, name: str) -> Whole:
        return self._of(name, *self._entered(name))

    def _entered(self, name: str) -> tuple[np.ndarray, Fitted]:
        """An image to be looked at, and as it enters."""
        path = self._images[name]
        image = read_image(path, self._input)
        return viewable(image), self._features.fit_image(image, self._input.at(pixel_size_in(path, self._input)))

    def _of(self, name: str, image: np.ndarray, fitted: Fitted) -> Whole:
        ph, pw = self._features.backbone.patch_size
        grid = fitted.image.shape[1] // ph, fitted.image.shape[2] // pw
        if grid[0] * grid[1] > MOST_PATCHES:
            raise DataError(
                f"{self._images[name]}: is {image.shape[1]}×{image.shape[0]} (width×height) and would enter as "
                f"{grid[0] * grid[1]} patches, which takes minutes for each; at most {MOST_PATCHES} are taken here: "
                f"cut it into pieces, or make a bank with a smaller --input.size"
            )
        found = self._features.of([fitted], [name])[0].cpu().numpy().astype(np.float16)
        query = Query(name, found.reshape(*grid, -1), (fitted.content[0] / ph, fitted.content[1] / pw))
        kept = Kept(query, np.ascontiguousarray(scaled_to(image, SMALL)), (image.shape[0], image.shape[1]))
        size, covered = np.array(kept.size, np.int64), np.array(query.covered, np.float64)
        arrays = {"features": query.features, "small": kept.small, "size": size, "covered": covered}
        try:
            save_arrays(self._file(name), arrays)
        except FungiSegError as error:  # they are computed again next time
            log.warning("%s", error)
        else:
            self._bound()
        return Whole(image, fitted, kept)

    def _bound(self) -> None:
        """Remove the files that were written first once all together are too large."""
        with self._lock:
            self._written += 1
            if self._written % COUNTED:
                return
            files = sorted(
                (path.stat().st_mtime_ns, path.stat().st_size, path) for path in self._folder.glob("*.safetensors")
            )
            too_much = sum(size for _, size, _ in files) - MOST_BYTES
            for _, size, path in files:
                if too_much <= 0:
                    break
                path.unlink(missing_ok=True)
                too_much -= size

    def _file(self, name: str) -> Path:
        return self._folder / f"{digest([name, stamp_of(self._images[name]), self._made])[:40]}.safetensors"
