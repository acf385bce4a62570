"""What no image may be: too large, or several."""

from __future__ import annotations

from fungi_seg.errors import DataError

MOST_PIXELS = 2**29  # a few bytes each are held: some 4 GB in all


def check_pixels(height: int, width: int) -> None:
    """Refuse an image before it is decoded that is too large, so that no file takes all memory.

    Raises:
        DataError: more than `MOST_PIXELS`. The message doesn't name the file.
    """
    if height * width > MOST_PIXELS:
        raise DataError(
            f"has {height}×{width} pixels (height×width), {height * width} in all; at most {MOST_PIXELS} are read: "
            f"cut it into parts, make it smaller, or give --input.scale, which reads files of strips or tiles in parts"
        )


def check_count(count: int, what: str, way_out: str = "") -> None:
    """Refuse stacks and animations, where nothing says which image is meant.

    Args:
        count: of images in the file.
        what: they are called there.
        way_out: how to say which one is meant, where that can be said.

    Raises:
        DataError: more than one. The message doesn't name the file.
    """
    if count > 1:
        raise DataError(
            f"holds {count} {what}, and nothing says which one is meant; {way_out and f'{way_out}; or '}save "
            f"the one to use, or what they are put together to, as a file of its own"
        )
