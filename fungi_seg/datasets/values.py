"""What mask values and colours stand for where the user says so, and whether the void value seems to be a class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from fungi_seg.datasets.common import Dataset, check_once
from fungi_seg.datasets.masks import Colour, ColourMasks, IndexMasks, Span, values_in
from fungi_seg.errors import DataError, listing, nearest
from fungi_seg.images import VOID
from fungi_seg.progress import prefetch

FORM = re.compile(r"(?P<low>\d+)(?P<span>\.\.(?P<high>\d*))?|(?P<colour>\d+/\d+/\d+)")
NO_CLASS = "void"
LARGEST = 2**16 - 1
GOLDEN = (5**0.5 - 1) / 2
FEW = 3  # classes without a pixel that are named

Key = tuple[int, int | None] | Colour


def with_values(dataset: Dataset, values: Sequence[str], void: int | None) -> Dataset:
    """The same images, whose mask values or colours stand for what `values` says.

    A value or colour that isn't named keeps what the layout knows it as, and is an error where it knows none. A single
    value comes before a span that holds it.

    Args:
        dataset: as its layout gives it.
        values: `255=nucleus` for a value, `1..9=nucleus` for a span, `1..=nucleus` for all from 1, `255/0/0=road` for a
            colour (red, green, blue); the class `void` stands for unlabelled, unless the data set has a class of that
            name.
        void: a value that is named as void elsewhere.

    Raises:
        DataError: an entry of another form, a class that isn't there, a value twice, values and colours together, or
            masks that have none of both.
    """
    if not isinstance(dataset.read, IndexMasks | ColourMasks):
        raise DataError(
            f"data.values is {', '.join(values)}, but these annotations have no mask values; leave it out, or name a "
            f"folder of pixel maps with --data.masks"
        )
    entries = [_parsed(text, dataset.classes) for text in values]
    check_once((text.partition("=")[0].strip() for text in values), "data.values", "values")
    colours = {key: index for key, index in entries if len(key) == 3}
    spans = [Span(*key, index) for key, index in entries if len(key) == 2]
    if colours and spans:
        raise DataError(f"data.values is {', '.join(values)}: masks have values or colours; name only one of them")
    if colours:
        return replace(dataset, read=_coloured(dataset.read, colours, void))
    if isinstance(dataset.read, ColourMasks):
        raise DataError(
            f"data.values has {values[0]!r}, but these masks give classes by colours: name them like 255/0/0=NAME "
            f"(red/green/blue)"
        )
    return replace(dataset, read=_valued(dataset.read, spans, void))


def _parsed(text: str, classes: Sequence[str]) -> tuple[Key, int]:
    """First and last value, or a colour; and the class index it stands for."""
    value, _, name = (part.strip() for part in text.partition("="))
    form = FORM.fullmatch(value)
    if not form or not name:
        more = "; write a colour as red/green/blue" if value.startswith("#") else ""
        raise DataError(
            f"data.values has {text!r}; it must be like 255=nucleus, 1..9=nucleus, 1..=nucleus (all from 1) or "
            f"255/0/0=road (red/green/blue), and void stands for unlabelled{more}"
        )
    if name not in (*classes, NO_CLASS):
        raise DataError(
            f"data.values has {text!r}, but {name!r} is no class of the data set{nearest(name, [*classes, NO_CLASS])}; "
            f"its classes, beside void:\n{listing(classes, 30)}"
        )
    index = classes.index(name) if name in classes else VOID
    if form["colour"]:
        red, green, blue = (int(part) for part in value.split("/"))
        _check(max(red, green, blue) <= 255, text, "each of red/green/blue is 0..255")
        return (red, green, blue), index
    low = int(form["low"])
    high = low if not form["span"] else int(form["high"]) if form["high"] else None
    _check(low <= (low if high is None else high) <= LARGEST, text, f"values are 0..{LARGEST}, the smaller one first")
    return (low, high), index


def _check(right: bool, text: str, rule: str) -> None:
    if not right:
        raise DataError(f"data.values has {text!r}; {rule}")


def _coloured(read: IndexMasks | ColourMasks, colours: dict[Colour, int], void: int | None) -> ColourMasks:
    if void is not None:
        raise DataError(
            f"data.void is {void}, but data.values names colours; leave it out, and name the colour of void as "
            f"{'/'.join([str(min(void, 255))] * 3)}=void"
        )
    known = read.colours if isinstance(read, ColourMasks) else {}
    return ColourMasks({**known, **colours}, "Name each with --data.values, such as 255/0/0=NAME or 0/0/0=void")


def _valued(read: IndexMasks, spans: Sequence[Span], void: int | None) -> IndexMasks:
    single = {span.low: span for span in spans if span.low == span.high}
    wide = sorted((span for span in spans if span.low != span.high), key=lambda span: span.low)
    for one, other in pairwise(wide):
        if one.holds(other.low):
            raise DataError(f"data.values says twice what {other.low} stands for, in two spans; make them apart")
    if void is not None and single.get(void, Span(void, void, VOID)).index != VOID:
        raise DataError(f"data.void is {void}, which data.values names as a class; leave out one of both")
    added = [Span(void, void, VOID)] if void is not None and void not in single else []
    named = (*wide, *single.values(), *added)
    left = tuple(value for value in read.void if not any(span.holds(value) for span in named))
    assumed = read.assumed if read.assumed in left else None
    return replace(read, void=left, spans=named, assumed=assumed)


@dataclass(frozen=True)
class Doubt:
    """Why masks seem to be read otherwise than they were meant.

    Attributes:
        text: what was found, and the ways out.
        values: data.values that probably sets it right, where that is clear.
    """

    text: str
    values: tuple[str, ...] = ()


def void_doubt(dataset: Dataset, workers: int = 0) -> Doubt | None:
    """Why the value that counts as void seems to be a class, or nothing.

    Most tools write an object as 255, which is void here. The rule: all masks together hold one class only, and the
    value that the layout takes for void (255; 65535 of more than 255 classes), which nobody named as such, covers the
    rest. A class without a pixel beside two or more others is no sign: many sets have such classes, and void
    borders. Void that was named (data.void, data.values, a label map) is none either.

    Masks are looked at only until two classes were seen, those far apart first: mostly one.

    Args:
        dataset: annotated images; those that can't be read are skipped.
        workers: threads that read masks.
    """
    read = dataset.read
    if not isinstance(read, IndexMasks) or read.assumed is None:
        return None
    counts = np.zeros(len(read.values) + 2, np.int64)  # of the classes, of void, and of the value taken for it
    for found in prefetch(lambda index: _counted(dataset, read, index), _scattered(len(dataset)), workers):
        counts += found
        if np.count_nonzero(counts[:-2]) > 1:
            return None
    if not counts[:-2].any() or not counts[-1]:  # void all over is handled elsewhere
        return None
    return _doubt(dataset, read, counts)


def check_void(dataset: Dataset, workers: int = 0) -> None:
    """Refuse masks whose void value seems to be a class, with the message of `void_doubt`.

    Raises:
        DataError: it does.
    """
    doubt = void_doubt(dataset, workers)
    if doubt:
        raise DataError(doubt.text)


def _scattered(count: int) -> Iterator[int]:
    """0..count − 1, neighbours far apart: files in a row are often alike."""
    yield from sorted(range(count), key=lambda number: number * GOLDEN % 1)


def _counted(dataset: Dataset, read: IndexMasks, index: int) -> np.ndarray:
    """Pixels of each class, of void, and of the value taken for it; none of a mask that can't be read."""
    item, classes = dataset.items[index], len(read.values)
    try:
        values = values_in(item.mask)
        indices = read.class_indices(values, item.mask)
    except DataError:  # an error when its turn comes
        return np.zeros(classes + 2, np.int64)
    pixels = np.roll(np.bincount(indices.ravel() + 1, minlength=classes + 1), -1)
    return np.append(pixels, np.count_nonzero(values == read.assumed))


def _doubt(dataset: Dataset, read: IndexMasks, counts: np.ndarray) -> Doubt | None:
    """The message on masks with one class and void; nothing where the missing classes aren't kept."""
    seen, void, kept = int(counts[:-2].argmax()), read.assumed, dataset.selection or range(len(read.values))
    missing = list(dict.fromkeys(dataset.classes[i] for i in kept if i not in (VOID, kept[seen])))
    if not missing and len(read.values) > 1:
        return None
    share = counts[-1] / counts[:-1].sum()
    covers = f"{void}, which counts as void, covers {share:.1%} of the {len(dataset)} masks"
    unlabelled = f"If {void} does mean unlabelled, say so with --data.void {void}"
    if not missing:
        name = dataset.classes[0]
        return Doubt(
            f"{name!r} is the only class that is listed, so that every pixel of any image would be it, and {covers}. "
            f"If the rest is background, write background as the first line of classes.txt, and name the object's "
            f"value with --data.values, such as {void}={name}. {unlabelled}"
        )
    rest = dataset.classes[kept[seen]] if kept[seen] != VOID else f"value {read.values[seen]}"
    names = ", ".join(map(repr, missing[:FEW])) + (f" and {len(missing) - FEW} more" if len(missing) > FEW else "")
    probable = f"{void}={missing[0]}" if len(missing) == 1 else ""
    return Doubt(
        f"{'class' if len(missing) == 1 else 'classes'} {names}: no pixel; {covers}, and all others are {rest!r}. Many "
        f"tools write an object as {void}: say so with --data.values {probable or f'{void}=NAME'}. {unlabelled}",
        (probable,) if probable else (),
    )
