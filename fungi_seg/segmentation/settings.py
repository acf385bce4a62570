"""How a mask is made of what neighbours say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fungi_seg.bank import RIDGE_KINDS
from fungi_seg.config import from_dict
from fungi_seg.errors import FungiSegError, check_choice

MASKS = ("auto", "png", "tiff", "palette")
OVERLAYS = ("contour", "fill", "side_by_side", "none")
CONFIDENCE = ("png", "tiff")  # what maps of it are written as
RIDGE_DETAILS = ("ridge_penalty", "ridge_bandwidth")  # the latter of Fourier features alone


@dataclass(frozen=True)
class DecoderConfig:
    """How neighbours vote, and how votes become a mask. The defaults are the published values.

    Args:
        k: neighbours a patch.
        temperature: of the softmax over their cosine similarities; lower follows the nearest more.
        gradient_weight: a in the similarity `(1 − a)·cos(token) + a·cos(gradient)`, 0 (plain features) to 1; `null` is
            0.5 as in the paper, or nothing where features have no gradient.
        class_share: votes for a class are divided by its share of the annotated images to this power; 0 leaves them.
        refine: how far class scores follow the edges of the image, 0 (bilinear) to 1 (guided filter).
        ridge: a second opinion, averaged with the vote: ridge regression from rows to labels on the `token`, on token
            and gradient as the vote weighs them (`feature`), on random Fourier features of the token (`fourier`), or
            `none`.
        ridge_share: its share of the scores, 0 to 1.
        ridge_penalty: of the regression, as a part of the mean square of its inputs.
        ridge_bandwidth: of the Fourier features.
    """

    k: int = 30
    temperature: float = 0.02
    gradient_weight: float | None = None
    class_share: float = 0.0
    refine: float = 0.0
    ridge: str = "none"
    ridge_share: float = 0.0
    ridge_penalty: float = 1e-3
    ridge_bandwidth: float = 1.0

    def __post_init__(self) -> None:
        _check_values(vars(self))
        if (self.ridge == "none") != (self.ridge_share == 0):
            raise FungiSegError(
                f"decoder.ridge is {self.ridge!r}, but decoder.ridge_share {self.ridge_share}; name a regression and a "
                f"share above 0, or neither"
            )


def _check_values(given: Mapping[str, Any]) -> None:
    """Raise if a setting of the decoder is one that can't be, whatever the others are; those that are none are open."""
    values = {name: value for name, value in given.items() if value is not None}
    if values.get("k", 1) < 1:
        raise FungiSegError(f"decoder.k is {values['k']}; it must be at least 1")
    for name in ("temperature", *RIDGE_DETAILS):
        if not 0 < values.get(name, 1) < math.inf:
            raise FungiSegError(f"decoder.{name} is {values[name]}; it must be a number above 0")
    for name in ("gradient_weight", "refine", "ridge_share"):
        if not 0 <= values.get(name, 0) <= 1:
            raise FungiSegError(f"decoder.{name} is {values[name]}; it must be 0 to 1")
    if not 0 <= values.get("class_share", 0) <= 2:
        raise FungiSegError(f"decoder.class_share is {values['class_share']}; it must be 0 to 2")
    check_choice("decoder.ridge", values.get("ridge", "none"), RIDGE_KINDS)


@dataclass(frozen=True)
class DecoderOptions:
    """How neighbours vote, and how votes become a mask; what is left out is as fitted on the bank, or as published.

    Args:
        k: neighbours a patch (published: 30).
        temperature: of the softmax over their cosine similarities (0.02); lower follows the nearest more.
        gradient_weight: a in the similarity `(1 − a)·cos(token) + a·cos(gradient)`, 0 (plain features) to 1 (0.5).
        class_share: votes for a class are divided by its share of the annotated images to this power (0).
        refine: how far class scores follow the edges of the image, 0 (bilinear; published) to 1 (guided filter).
        ridge: a second opinion, averaged with the vote: ridge regression from rows to labels on the `token`, on token
            and gradient as the vote weighs them (`feature`), on random Fourier features of the token (`fourier`), or
            `none` (published).
        ridge_share: its share of the scores, 0 to 1 (0).
        ridge_penalty: of the regression, as a part of the mean square of its inputs.
        ridge_bandwidth: of the Fourier features.
    """

    k: int | None = None
    temperature: float | None = None
    gradient_weight: float | None = None
    class_share: float | None = None
    refine: float | None = None
    ridge: str | None = None
    ridge_share: float | None = None
    ridge_penalty: float | None = None
    ridge_bandwidth: float | None = None

    def __post_init__(self) -> None:
        _check_values(vars(self))

    def over(self, base: DecoderConfig) -> DecoderConfig:
        """`base` with what is given here in its place.

        A regression that is switched off by one of its two settings is off; its kind alone gets half of the scores.

        Raises:
            FungiSegError: settings that don't go together, or one that changes nothing.
        """
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        values: dict[str, Any] = {**vars(base), **given}
        if given.get("ridge") == "none" and "ridge_share" not in given:
            values["ridge_share"] = 0.0
        elif given.get("ridge_share") == 0 and "ridge" not in given:
            values["ridge"] = "none"
        elif given.get("ridge") and "ridge_share" not in given and not base.ridge_share:
            values["ridge_share"] = 0.5
        found = DecoderConfig(**values)
        unused = {"none": RIDGE_DETAILS, "fourier": ()}.get(found.ridge, RIDGE_DETAILS[1:])
        for name in unused:
            if name in given:
                raise FungiSegError(
                    f"decoder.{name} is {given[name]}, but decoder.ridge is {found.ridge!r}, so that it changes "
                    f"nothing; leave it out, or name a decoder.ridge that has one"
                )
        return found


def check_unknown(least: float) -> None:
    """Raise unless `least` can be a confidence below which pixels are unknown."""
    if not 0 <= least <= 1:
        raise FungiSegError(f"unknown is {least}; it must be 0 to 1, the confidence below which a pixel has no class")


@dataclass(frozen=True)
class MaskConfig:
    """How masks are written.

    Args:
        format: `png` (grey, which every program reads as class indices), `tiff`, or `palette` (PNG in the colours of
            the classes: some programs, such as OpenCV, make brightness of them, and not class indices). Of 8 bits, or
            16 above 256 classes. `auto` is `png` of photos; of GeoTIFFs, OME-TIFFs, whole slides and OME-Zarr it is a
            file of the same kind, which keeps the place and the size of pixels.
    """

    format: str = "auto"

    def __post_init__(self) -> None:
        check_choice("masks.format", self.format, MASKS)


@dataclass(frozen=True)
class OverlayConfig:
    """How images are shown with their masks.

    Args:
        style: `contour` (a line of 2 pixels in the colour of the class, with a light fill), `fill`, `side_by_side` (the
            image, and beside it the filled one), or `none`.
        opacity: of the fill, 0 to 1; 0.2 within contours and 0.5 elsewhere where not given.
        lossless: as PNG in place of JPEG.
    """

    style: str = "contour"
    opacity: float | None = None
    lossless: bool = False

    def __post_init__(self) -> None:
        check_choice("overlays.style", self.style, OVERLAYS)
        if self.opacity is not None and not 0 <= self.opacity <= 1:
            raise FungiSegError(f"overlays.opacity is {self.opacity}; it must be 0 (no fill) to 1")

    @property
    def suffix(self) -> str:
        """Of the files that are written."""
        return ".png" if self.lossless else ".jpg"


def check_overlays(value: object) -> None:
    """Raise where an opacity, or whether to write overlays, is given in place of how they are drawn."""
    if not isinstance(value, OverlayConfig):
        raise FungiSegError(
            f"overlays is {value!r}; it must be an OverlayConfig, such as OverlayConfig('none') or "
            f"OverlayConfig('fill', opacity=0.5)"
        )


@dataclass(frozen=True)
class ObjectConfig:
    """Which regions of a mask are counted as objects. They are connected regions (8 neighbours) of one class.

    Args:
        classes: names of the classes; all but `background` where not given.
        min_area: smaller ones, in pixels, are left out.
        fill_holes: what lies within an object belongs to it, unless it is of another class that is counted.
        split: part those that touch, where they are narrow (watershed of the distance to the edge).
    """

    classes: tuple[str, ...] | None = None
    min_area: int = 1
    fill_holes: bool = False
    split: bool = False

    def __post_init__(self) -> None:
        if self.min_area < 1:
            raise FungiSegError(f"object.min_area is {self.min_area}; it must be a number of pixels from 1")


def check_pixel_size(pixel_size: float) -> None:
    """Raise unless a pixel can be so many micrometres wide."""
    if not 0 < pixel_size < math.inf:
        raise FungiSegError(f"pixel_size is {pixel_size}; it must be the width of a pixel in micrometres, above 0")


def fitted_decoder(record: Mapping[str, Any] | None, where: str) -> DecoderConfig:
    """The settings that were fitted on a bank, from its manifest's `decoder`; the published ones where none were.

    Raises:
        FungiSegError: a setting that this release doesn't know, or a value that can't be.
    """
    return from_dict(DecoderConfig, record["settings"], f"{where}: the fitted decoder") if record else DecoderConfig()
