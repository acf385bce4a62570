"""How images enter: their size, and how a pass over them is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from fungi_seg.errors import FungiSegError, check_choice, check_unused

SIZE = 512  # of the shorter side, where neither another one nor a scale is given
VOID = -1  # the class index of pixels that belong to no class


@dataclass(frozen=True)
class InputConfig:
    """How an image becomes the backbone's input.

    Args:
        size: target size in pixels: one number, `[height, width]`, or `null` for the image's own size.
        keep_aspect: with one number: it is the shorter side and the aspect ratio stays; if false, the image becomes
            a square.
        fit: what makes both sides multiples of the patch: `resize` stretches to the nearest multiple, `pad` repeats
            the border to the right and below (padding is never voted for, nor stored).
        scale: in place of a size, how many pixels a pixel of the image becomes: 0.5 halves both sides. Images that are
            then larger than a few tiles enter in overlapping tiles.
        resolution: in place of a size, the width of a pixel of the input, in micrometres (in metres of geographic
            rasters). The files must say how wide their pixels are.
        tile: side of the tiles, in pixels of the input; with `scale` or `resolution`.
        channels: which channels of the image, by name or by number from 1: one (grey), or three as red, green and blue;
            `all`: each goes through the backbone by itself, and their features are joined.
        projection: what becomes of planes along z: `max`, `mean`, or the number of one, from 0. By default each is an
            image of its own.
        scaling: of values of more than 8 bits to brightness: `image` (by percentiles of each image), or `data` (by
            percentiles of all annotated images, which the bank keeps).
        limits: the values that become black and white, in place of percentiles: low, high for all channels, or for
            each in its turn.
    """

    size: int | tuple[int, int] | None = SIZE
    keep_aspect: bool = True
    fit: str = "resize"
    scale: float | None = None
    resolution: float | None = None
    tile: int = 512
    channels: tuple[str, ...] = ()
    projection: str | None = None
    scaling: str = "image"
    limits: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.scaled and self.size == SIZE:
            object.__setattr__(self, "size", None)
        check_choice("input.fit", self.fit, ("resize", "pad"))
        pair = isinstance(self.size, tuple | list)
        sides = self.size if isinstance(self.size, tuple | list) else () if self.size is None else (self.size,)
        if (pair and len(sides) != 2) or any(side is None or side < 1 for side in sides):
            raise FungiSegError(f"input.size is {self.size}; it must be a positive number, [height, width] or null")
        if self.size is None:
            why = "input.size null takes images at their own size"
            check_unused(self, "input.", ("keep_aspect",), why, "leave it out, or give a size")
        self._check_scale()
        self._check_samples()

    @property
    def scaled(self) -> bool:
        """Images enter at a scale, in tiles where they are large, and not at a size."""
        return self.scale is not None or self.resolution is not None

    def at(self, pixel_size: float | None) -> InputConfig:
        """The same for an image whose pixels are so wide: at a scale where a resolution is asked for."""
        if self.resolution is None or pixel_size is None:
            return self
        return replace(self, scale=pixel_size / self.resolution, resolution=None)

    @property
    def by_samples(self) -> bool:
        """Images are read by their stored samples, and not as a picture program shows them."""
        return self.chooses or self.projection is not None or self.scaled

    @property
    def chooses(self) -> bool:
        """It is said which channels or values are used."""
        return bool(self.channels or self.limits) or self.scaling != "image"

    @property
    def joined(self) -> bool:
        """Each channel goes through the backbone by itself."""
        return self.channels == ("all",)

    def _check_scale(self) -> None:
        for name in ("scale", "resolution"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise FungiSegError(f"input.{name} is {value}; it must be a number above 0")
        if self.tile < 1:
            raise FungiSegError(f"input.tile is {self.tile}; it must be a number of pixels from 1")
        if self.scale is not None and self.resolution is not None:
            raise FungiSegError(
                f"input.scale is {self.scale} and input.resolution {self.resolution}; one of them decides: leave the "
                f"other out"
            )
        if not self.scaled:
            why = "images enter at a size, not at a scale"
            check_unused(self, "input.", ("tile",), why, "give input.scale or input.resolution, too")
            return
        why = "input.scale or input.resolution decides"
        check_unused(self, "input.", ("keep_aspect", "fit"), why, "leave it out")
        if self.size is not None:
            raise FungiSegError(f"input.size is {self.size}, but {why}; leave it out")

    def _check_samples(self) -> None:
        check_choice("input.scaling", self.scaling, ("image", "data"))
        if "all" in self.channels and len(self.channels) > 1:
            raise FungiSegError(f"input.channels is {list(self.channels)}; all stands alone")
        if self.channels and not self.joined and len(self.channels) not in (1, 3):
            raise FungiSegError(
                f"input.channels names {len(self.channels)} channels, {list(self.channels)}; name one, three as red, "
                f"green and blue, or all"
            )
        if self.projection is not None and self.projection not in ("max", "mean") and not self.projection.isdecimal():
            raise FungiSegError(f"input.projection is {self.projection!r}; it must be max, mean or a number from 0")
        lows, highs = self.limits[::2], self.limits[1::2]
        if len(lows) != len(highs) or not all(low < high for low, high in zip(lows, highs, strict=True)):
            raise FungiSegError(
                f"input.limits is {list(self.limits)}; it must be low, high with low below high, or such a pair for "
                f"each channel"
            )


@dataclass(frozen=True)
class InputOptions:
    """How images enter where it isn't as the bank's images did; what is left out is as theirs.

    Args:
        scale: how many pixels of the input a pixel of the image becomes; 0.5 halves both sides. Images that are then
            larger than a few tiles enter in overlapping tiles.
        resolution: the width of a pixel of the input, in micrometres (in metres of geographic rasters), in place of a
            scale.
        tile: side of the tiles, in pixels of the input.
        channels: which channels of the image, by name or by number from 1: one, or three as red, green and blue.
        projection: what becomes of planes along z: `max`, `mean`, or the number of one, from 0.
        limits: the values that become black and white: low, high for all channels, or for each in its turn.
    """

    scale: float | None = None
    resolution: float | None = None
    tile: int | None = None
    channels: tuple[str, ...] | None = None
    projection: str | None = None
    limits: tuple[float, ...] | None = None

    def over(self, base: InputConfig) -> InputConfig:
        """`base` with what is given here in its place.

        Raises:
            FungiSegError: settings that don't go together, or one that changes nothing.
        """
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        values: dict[str, Any] = {**vars(base), **given}
        if "scale" in given or "resolution" in given:
            whole = {"size": SIZE, "keep_aspect": True, "fit": "resize"}
            values |= {"scale": given.get("scale"), "resolution": given.get("resolution"), **whole}
        found = InputConfig(**values)
        if base.joined != found.joined:
            raise FungiSegError(
                f"input.channels is {list(found.channels)}, but the bank's is {list(base.channels)}; whether channels "
                f"are joined is up to the bank: build another one"
            )
        return found


@dataclass(frozen=True)
class LoadConfig:
    """How images are worked through; changes the speed, never the result.

    Args:
        batch_size: images of one size that go through the backbone together.
        workers: threads that read images ahead.
    """

    batch_size: int = 4
    workers: int = 2

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise FungiSegError(
                f"load.batch_size is {self.batch_size}, load.workers {self.workers}; they must be at least 1 and 0"
            )


@dataclass(frozen=True)
class RunConfig:
    """How a pass over images is done; it changes neither rows nor masks.

    Args:
        load: how images are worked through.
        skip_bad: skip images and masks that can't be used, and list them in what is made.
        progress: report on standard error.
    """

    load: LoadConfig = LoadConfig()
    skip_bad: bool = False
    progress: bool = False
