"""Colours of classes."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count

import numpy as np

Colour = tuple[int, int, int]

BLACK = (0, 0, 0)
OKABE_ITO = (  # orange, sky blue, bluish green, yellow, blue, vermilion, reddish purple; their black is left out
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
FURTHER = (  # bright ones, each as far as it can be from all before it, to usual and to colour-blind eyes
    (153, 51, 255),
    (0, 255, 153),
    (255, 0, 85),
    (153, 119, 255),
    (187, 255, 119),
    (187, 187, 85),
    (153, 255, 221),
    (85, 119, 51),
    (187, 0, 153),
    (255, 119, 153),
    (153, 153, 255),
    (153, 187, 119),
    (85, 221, 221),
    (221, 255, 0),
    (119, 221, 153),
    (187, 51, 221),
    (153, 85, 0),
)
SPREAD = (0.8191725134, 0.6710436067, 0.5497004779)  # multiples of them fill a cube evenly, however many there are


def voc_palette(length: int) -> np.ndarray:
    """`[length, 3]` uint8: the colour map of Pascal VOC, in which the bits of an index are spread over R, G and B."""
    colours = np.zeros((length, 3), np.int64)
    index = np.arange(length)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def default_palette(names: Sequence[str]) -> np.ndarray:
    """`[C, 3]` uint8: bright colours that differ, the first seven by Okabe and Ito; black for a first `background`.

    The colour of an index is the same however many classes follow.
    """
    colours = bright_colours()
    first = [BLACK] if names[0] == "background" else []
    return np.array([*first, *(next(colours) for _ in names[len(first) :])], np.uint8)


def bright_colours() -> Iterator[Colour]:
    """Colours without end, none dark and none twice; first those that colour-blind eyes can tell apart."""
    given: set[Colour] = set()
    for colour in chain(OKABE_ITO, FURTHER, map(_colour_of_cube, count())):
        if colour not in given:
            given.add(colour)
            yield colour


def colours_beside(wanted: Iterable[Sequence[int]], taken: Iterable[Colour]) -> tuple[Colour, ...]:
    """Colours of classes that join others: as wanted, or where they are taken the first bright one that is free.

    Black, which isn't painted, may be shared.
    """
    asked = list(map(as_colour, wanted))
    used, wished, found = {*taken} - {BLACK}, set(asked), list[Colour]()
    free = (colour for colour in bright_colours() if colour not in used and colour not in wished)
    for colour in asked:
        found.append(next(free) if colour in used else colour)
        used.update({found[-1]} - {BLACK})
    return tuple(found)


def as_colour(values: Sequence[int]) -> Colour:
    """Red, green and blue as plain numbers."""
    red, green, blue = values
    return int(red), int(green), int(blue)


def _colour_of_cube(number: int) -> Colour:
    """One of any hue, of middle to full saturation and brightness."""
    hue, saturation, value = (number * step % 1 for step in SPREAD)
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.4 + 0.4 * saturation, 0.75 + 0.25 * value)
    return round(255 * red), round(255 * green), round(255 * blue)
