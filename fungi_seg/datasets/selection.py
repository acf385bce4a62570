"""Which classes of a data set count, and which become one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fungi_seg.datasets.common import Dataset, check_once
from fungi_seg.errors import DataError, listing, nearest
from fungi_seg.images import VOID

BACKGROUND = "background"


def select(dataset: Dataset, classes: Sequence[str] = (), merge: Sequence[str] = ()) -> Dataset:
    """The same images with fewer classes.

    Args:
        dataset: as its layout gives it.
        classes: names to keep, in this order, after `background`; all where there is none. A super-category stands
            for its classes. The others become background where the data set has it, void otherwise.
        merge: `vehicle=car,bus`: classes to make one of, which takes the place and colour of the first one; a comma
            within a name is `\\,`.

    Raises:
        DataError: a name that isn't a class or super-category, or one that is used twice.
    """
    if not classes and not merge:
        return dataset
    target = _merged(dataset, merge)
    there = list(dict.fromkeys(target))
    kept = there
    if classes:
        wanted = [new for name in classes for new in _wanted(name, dataset, target)]
        check_once(wanted, "data.classes", "classes")
        kept = [*([BACKGROUND] if BACKGROUND in there and BACKGROUND not in wanted else []), *wanted]
    rest = kept.index(BACKGROUND) if BACKGROUND in kept else VOID
    colours = dict(zip(reversed(target), reversed(dataset.palette.tolist()), strict=True))  # the first one's colour
    groups = dict(zip(reversed(target), reversed(dataset.groups), strict=False))
    return replace(
        dataset,
        classes=tuple(kept),
        palette=np.array([colours[name] for name in kept], np.uint8),
        groups=tuple(groups[name] for name in kept) if groups else (),
        selection=tuple(kept.index(name) if name in kept else rest for name in target),
    )


def _merged(dataset: Dataset, merge: Sequence[str]) -> list[str]:
    """What each class is called once those of `merge` are one; they may join a class that has the name already."""
    target = list(dataset.classes)
    taken: list[str] = []
    for new, parts in _parsed(merge):
        members = [member for part in parts for member in _members(part, dataset, "data.merge")]
        taken += members
        for member in members:
            target[dataset.classes.index(member)] = new
    check_once(taken, "data.merge", "classes")
    return target


def _parsed(merge: Sequence[str]) -> list[tuple[str, list[str]]]:
    r"""`["vehicle=car", "bus", "animal=cat,dog"]` as names with their parts: what has no `=` goes on.

    A comma after a backslash belongs to the name.
    """
    found: list[tuple[str, list[str]]] = []
    for entry in (entry.strip().replace(r"\,", ",") for text in merge for entry in re.split(r"(?<!\\),", text)):
        new, equals, first = (part.strip() for part in entry.partition("="))
        if equals and new and first:
            found.append((new, [first]))
        elif entry and not equals and found:
            found[-1][1].append(entry)
        else:
            raise DataError(
                f"data.merge has {entry!r}; it must be like vehicle=car,bus; in a JSON list, \\, is a comma of a name"
            )
    return found


def _members(name: str, dataset: Dataset, argument: str) -> list[str]:
    """The class of that name, or those of the super-category."""
    if name in dataset.classes:
        return [name]
    members = [c for c, group in zip(dataset.classes, dataset.groups, strict=False) if group == name]
    if not members:
        known = [*dataset.classes, *dict.fromkeys(g for g in dataset.groups if g)]
        raise DataError(
            f"{argument} names {name!r}, which is no class of the data set{nearest(name, known)}; its classes:\n"
            f"{listing(dataset.classes, 30)}"
        )
    return members


def _wanted(name: str, dataset: Dataset, target: list[str]) -> list[str]:
    """What `name` of data.classes stands for, among the classes there are once some are merged."""
    if name in target:
        return [name]
    return list(dict.fromkeys(target[dataset.classes.index(m)] for m in _members(name, dataset, "data.classes")))
