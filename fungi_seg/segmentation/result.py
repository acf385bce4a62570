"""What was found in one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tifffile import imwrite
from torch import Tensor

from fungi_seg.datasets import DEFAULT_VOID_16, void_value
from fungi_seg.errors import DataError, FungiSegError, check_choice
from fungi_seg.files import replacing
from fungi_seg.images import (
    CONTOUR,
    LIGHT,
    beside_overlay,
    in_strips,
    overlay,
    stretch_of,
    stretched,
    strips,
)
from fungi_seg.rasters import RasterInfo, Window, has_own_masks, mask_suffix, write_mask
from fungi_seg.segmentation.confidence import LEVELS, Calibration
from fungi_seg.segmentation.decoder import mean_over_pixels, patches_at, refined_label_map, upsample
from fungi_seg.segmentation.objects import Objects, objects_of
from fungi_seg.segmentation.refine import refined_strips
from fungi_seg.segmentation.settings import (
    CONFIDENCE,
    MaskConfig,
    ObjectConfig,
    OverlayConfig,
    check_overlays,
    check_unknown,
)

UNKNOWN = (128, 128, 128)
FILL = 0.5
MOST_JPEG = 65500


@dataclass(frozen=True)
class Segmentation:
    """What was found in one image.

    Attributes:
        mask: `[H, W]` class indices, uint8 (uint16 above 256 classes), at the image's own size; `void` where unknown.
        patch_scores: `[C, h, w]` float32 class scores per patch, summing to 1 over classes.
        covered: patches `(h', w')` that the image spans; less than `h, w` where it was padded.
        classes: names.
        palette: `[C, 3]` uint8 RGB.
        image: `[H, W, 3]` uint8 RGB.
        refine: how far the mask follows its edges, 0 to 1.
        calibration: what scores are worth, if that is known of these settings.
        unlike: `[h, w]` bool, patches that are unlike anything in the bank; with `calibration`.
        voters: annotated images with the largest shares of the neighbours' vote over the whole image, and those shares.
        by_hand: `[H, W]` bool, pixels whose class in `mask` was given by a person; see `corrected`.
        guide: the image as it entered, in cells, where it did at a scale; see `refine.guide_of`.
    """

    mask: np.ndarray
    patch_scores: Tensor
    covered: tuple[float, float]
    classes: tuple[str, ...]
    palette: np.ndarray
    image: np.ndarray
    refine: float = 0.0
    calibration: Calibration | None = None
    unlike: np.ndarray | None = None
    voters: tuple[tuple[str, float], ...] = ()
    by_hand: np.ndarray | None = None
    guide: np.ndarray | None = None

    def scale(self, patch: tuple[int, int]) -> float:
        """Pixels of the input to a pixel of the image, from left to right, by the size of a patch."""
        return self.covered[1] * patch[1] / self.mask.shape[1]

    @property
    def scores(self) -> np.ndarray:
        """`[C, H, W]` float32 class scores per pixel, computed when asked for."""
        if self.refine:
            strips = refined_strips(self.patch_scores, self.image, self.covered, self.refine, self.guide)
            return torch.cat(list(strips), 1).numpy()
        return upsample(self.patch_scores, (self.mask.shape[0], self.mask.shape[1]), self.covered).numpy()

    @cached_property
    def levels(self) -> np.ndarray:
        """`[H, W]` uint16, the highest class score of each pixel, 0 to `LEVELS` for 0 to 1."""
        return refined_label_map(self.patch_scores, self.image, self.covered, self.refine, self.guide)[1]

    def knowing(self, levels: np.ndarray) -> Segmentation:
        """The same, whose `levels` are known, so that they aren't computed again."""
        self.__dict__["levels"] = levels
        return self

    @cached_property
    def confidence(self) -> np.ndarray:
        """`[H, W]` float32 probability in 0..1 that each pixel's class is right, computed when first asked for.

        0 in patches that are unlike anything in the bank, 1 where a person gave the class.

        Raises:
            FungiSegError: nothing is known of how sure classes are; `Segmenter.check_calibrated` says why.
        """
        found = np.empty(self.mask.shape, np.float32)
        for rows, part in self._confident_strips():
            found[rows] = part
        return found

    @property
    def sure(self) -> np.ndarray:
        """`[H, W]` float32 `confidence`, or where that isn't known the highest score, 1 where it was corrected."""
        if self.calibration is not None:
            return self.confidence
        found: np.ndarray = self.levels / np.float32(LEVELS)
        return found if self.by_hand is None else np.where(self.by_hand, np.float32(1), found)

    def read_mask(self, window: Window) -> np.ndarray:
        """`[h, w]` of a window of the mask."""
        return self.mask[window.top : window.top + window.height, window.left : window.left + window.width]

    def corrected(self, labels: np.ndarray) -> Segmentation:
        """The same with the classes that a person gave in place of those found; scores stay.

        Args:
            labels: `[H, W]` class indices, −1 where what was found stays.

        Raises:
            DataError: another size, or other values.
        """
        if labels.shape != self.mask.shape:
            said, own = ("×".join(map(str, shape)) for shape in (labels.shape, self.mask.shape))
            raise DataError(f"is {said} (height×width), but its image is {own}; a correction has the size of its image")
        by_hand, last = labels != -1, len(self.classes) - 1
        strange = labels[by_hand & ((labels < 0) | (labels > last))]
        if len(strange):
            raise DataError(
                f"has {int(strange[0])} among its values, which is no class; a correction holds class indices, 0 to "
                f"{last}, and {self.void} where what was found stays"
            )
        mask = np.where(by_hand, labels, self.mask).astype(self.mask.dtype)
        return replace(self, mask=mask, by_hand=by_hand).knowing(self.levels)

    def with_unknown(self, least: float) -> Segmentation:
        """The same with `void` where the confidence is below `least`, and in patches unlike anything in the bank.

        Args:
            least: 0 to 1.

        Raises:
            FungiSegError: another number; or as `confidence` does.
        """
        check_unknown(least)
        mask = self.mask.astype(np.uint16) if self.void == DEFAULT_VOID_16 else self.mask.copy()
        for rows, part in self._confident_strips():
            mask[rows][(part < least) | (part == 0)] = self.void
        return replace(self, mask=mask).knowing(self.levels)

    def within(self, valid: np.ndarray) -> Segmentation:
        """The same with `void` where the image holds nothing.

        Args:
            valid: `[H, W]` bool, pixels that hold something.
        """
        mask = np.where(valid, self.mask, np.uint16(self.void)).astype(_wide_enough(self.void))
        return replace(self, mask=mask).knowing(self.levels)

    @property
    def void(self) -> int:
        """What stands for unknown in the mask: 255, or 65535 where there are more than 255 classes."""
        return void_value(len(self.classes))

    @property
    def unknown_share(self) -> float:
        """Share of the mask's pixels that are unknown."""
        return float(np.count_nonzero(self.mask == self.void) / self.mask.size)

    def _confident_strips(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows, and the confidence of their pixels: above 0, but in patches unlike anything in the bank; by hand 1."""
        if self.calibration is None or self.unlike is None:
            raise FungiSegError(
                "confidence was asked for, but nothing is known of how sure classes are with these settings; "
                "Segmenter.check_calibrated says why (mostly the bank must be fitted: fungi-seg bank fit)"
            )
        size = (self.mask.shape[0], self.mask.shape[1])
        best = self.levels
        patches = torch.from_numpy(self.calibration(self.patch_scores.amax(0).numpy()))
        counts = np.zeros(LEVELS + 1, np.int64)
        for rows in strips(best):
            counts += np.bincount(best[rows].ravel(), minlength=LEVELS + 1)
        worth = self.calibration.levels(counts, mean_over_pixels(patches, size, self.covered))
        down, across = patches_at(size, self.covered, (self.unlike.shape[0], self.unlike.shape[1]))
        for rows in strips(best):
            part = np.where(self.unlike[down[rows]][:, across], 0, worth[best[rows]])
            yield rows, part if self.by_hand is None else np.where(self.by_hand[rows], 1, part)

    def palette_image(self) -> Image.Image:
        """The mask as an index image: its values are class indices, its colours the palette's; unknown is grey."""
        if self.mask.dtype != np.uint8:
            return Image.fromarray(self.mask)  # 16-bit: PNG palettes end at 256
        image = Image.fromarray(self.mask)
        colours = np.full((256, 3), UNKNOWN, np.uint8)  # all 256: fewer would be saved in fewer bits, without void
        colours[: len(self.palette)] = self.palette
        image.putpalette((colours if self.unknown_share else self.palette.astype(np.uint8)).tobytes())
        return image

    def overlay(self, config: OverlayConfig = OverlayConfig()) -> Image.Image:
        """The image with its mask in the palette's colours, RGB; unknown pixels are hatched.

        Classes whose colour is black leave it as it is. A dark image is stretched, see `images.stretch_of`.

        Raises:
            FungiSegError: `config` is something else.
        """
        check_overlays(config)
        return drawn(self.image, self.mask, self.palette, self.void, config)

    def objects(self, config: ObjectConfig | None = None) -> Objects:
        """The objects of the mask, counted and measured; their confidence too if it is known.

        Raises:
            FungiSegError: a class that isn't there, or the extra `objects` is missing.
        """
        return objects_of(self.mask, self.classes, config, self.confidence if self.calibration else None)

    def save(
        self,
        out: Path,
        name: str,
        masks: str = "auto",
        overlays: OverlayConfig = OverlayConfig(),
        scores: bool = False,
        confidence: Sequence[str] = (),
        info: RasterInfo | None = None,
    ) -> list[str]:
        """Write what `fungi-seg segment` writes of an image, each file whole or not at all.

        Args:
            out: folder.
            name: of the files below it, without their suffix: `masks/NAME.png` (or of another kind),
                `overlays/NAME.jpg` (or `.png`), `scores/NAME.npy` (`[C, H, W]` float16), `confidence/NAME.png` and
                `.tiff`.
            masks: see `MaskConfig.format`.
            overlays: how they are drawn; none are written where the style is `none`.
            scores: write them.
            confidence: which of `png` (0..255 for 0..1) and `tiff` (float32) to write.
            info: of the image's file, where it is known.

        Returns:
            The files, relative to `out`.

        Raises:
            FungiSegError: a format that there isn't, a file that can't be written, or as `confidence` does.
        """
        MaskConfig(masks)
        check_overlays(overlays)
        for suffix in confidence:
            check_choice("confidence", suffix, CONFIDENCE)
        files = self._save_mask(out, f"masks/{name}", masks, info)
        if overlays.style != "none":
            files.append(f"overlays/{name}{overlays.suffix}")
            with replacing(out / files[-1]) as draft:
                _write_picture(self.overlay(overlays), draft, name, overlays.lossless)
        if scores:
            files.append(f"scores/{name}.npy")
            with replacing(out / files[-1]) as draft:
                np.save(draft, self.scores.astype(np.float16))
        for suffix in confidence:
            files.append(f"confidence/{name}.{suffix}")
            with replacing(out / files[-1]) as draft:
                if suffix == "tiff":
                    imwrite(draft, self.confidence, compression="zlib")
                else:
                    Image.fromarray(in_strips(self.confidence, _in_8_bits)).save(draft)
        return files

    def _save_mask(self, out: Path, name: str, form: str, info: RasterInfo | None) -> list[str]:
        if form == "auto" and info is not None and has_own_masks(info):
            dtype = _wide_enough(self.void)
            size = (self.mask.shape[0], self.mask.shape[1])
            path = out / f"{name}{mask_suffix(info)}"
            made = write_mask(path, self.read_mask, size, dtype, info, self.classes, self.palette, self.void)
            return [file.relative_to(out).as_posix() for file in made]
        file = f"{name}.{'tif' if form == 'tiff' else 'png'}"
        with replacing(out / file) as draft:
            if form == "tiff":
                imwrite(draft, self.mask, compression="zlib")
            else:
                (self.palette_image() if form == "palette" else Image.fromarray(self.mask)).save(draft)
        return [file]


def drawn(
    image: np.ndarray, mask: np.ndarray, palette: np.ndarray, void: int, config: OverlayConfig = OverlayConfig()
) -> Image.Image:
    """An image with its mask, as `Segmentation.overlay` gives it."""
    stretch, opacity = stretch_of(image), config.opacity
    if config.style == "none":
        return Image.fromarray(stretched(image, stretch))
    if opacity is None:
        opacity = LIGHT if config.style == "contour" else FILL
    if config.style == "side_by_side":
        return beside_overlay(image, mask, palette, opacity, void, stretch)
    contour = CONTOUR if config.style == "contour" else 0
    return overlay(image, mask, palette, opacity, void, contour, stretch)


def _write_picture(picture: Image.Image, file: Path, name: str, lossless: bool) -> None:
    """As PNG, or as JPEG whose colours are as sharp as its brightness, so that lines stay lines."""
    if lossless:
        picture.save(file, "PNG")
        return
    if max(picture.size) > MOST_JPEG:
        raise DataError(
            f"{name}: its overlay has {picture.height}×{picture.width} pixels (height×width), but a side of a JPEG has "
            f"{MOST_JPEG} at most; write PNG (--overlays.lossless true), or no overlays (--overlays.style none)"
        )
    picture.save(file, "JPEG", quality=92, subsampling=0)


def _wide_enough(void: int) -> type[np.uint8] | type[np.uint16]:
    """For masks that may hold void."""
    return np.uint16 if void == DEFAULT_VOID_16 else np.uint8


def _in_8_bits(sure: np.ndarray) -> np.ndarray:
    """0..1 in 8 bits."""
    return (sure * 255).round().astype(np.uint8)
