"""How images enter: their size, and how a pass over them is done."""

from __future__ import annotations

from dataclasses import dataclass

from fungi_seg.errors import FungiSegError, check_choice, check_unused

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
    """

    size: int | tuple[int, int] | None = 512
    keep_aspect: bool = True
    fit: str = "resize"

    def __post_init__(self) -> None:
        check_choice("input.fit", self.fit, ("resize", "pad"))
        pair = isinstance(self.size, tuple | list)
        sides = self.size if isinstance(self.size, tuple | list) else () if self.size is None else (self.size,)
        if (pair and len(sides) != 2) or any(side is None or side < 1 for side in sides):
            raise FungiSegError(f"input.size is {self.size}; it must be a positive number, [height, width] or null")
        if self.size is None:
            why = "input.size null takes images at their own size"
            check_unused(self, "input.", ("keep_aspect",), why, "leave it out, or give a size")


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
