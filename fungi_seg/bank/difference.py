"""What differs between two states of a bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fungi_seg.bank.contents import BankContents
from fungi_seg.bank.labels import FULL
from fungi_seg.bank.revisions import lineage


@dataclass(frozen=True)
class ClassRows:
    """Rows that hold a class, in two states of a bank.

    Attributes:
        name: of the class.
        old, new: how many hold it in either.
        added: how many of the new ones didn't hold it, or weren't there, in the old state.
        removed: how many of the old ones don't hold it, or aren't there, in the new state.
    """

    name: str
    old: int
    new: int
    added: int
    removed: int


@dataclass(frozen=True)
class Difference:
    """What differs between an old and a new state of a bank.

    Attributes:
        revisions: their numbers, the old one first, as everywhere here.
        rows: how many they have.
        images_added, images_removed: ids that only the new or only the old one has.
        images_changed: ids in both whose rows or labels differ.
        classes_added, classes_removed: names that only the new or only the old one has.
        classes: rows of every class of either.
        settings: fitted settings of the vote, recall of the index, colours, by name, both values of each that differs.
    """

    revisions: tuple[int, int]
    rows: tuple[int, int]
    images_added: tuple[str, ...]
    images_removed: tuple[str, ...]
    images_changed: tuple[str, ...]
    classes_added: tuple[str, ...]
    classes_removed: tuple[str, ...]
    classes: tuple[ClassRows, ...]
    settings: dict[str, tuple[Any, Any]]


def difference(old: BankContents, new: BankContents) -> Difference:
    """What differs between two states of one bank."""
    names = tuple(dict.fromkeys((*old.info.classes, *new.info.classes)))
    first, second = (_Entries.of(state, _starts(old, new), names) for state in (old, new))
    gone, come = ~np.isin(first.held, second.held), ~np.isin(second.held, first.held)
    counts = [np.bincount(e, minlength=len(names)) for e in (first.ids, second.ids, second.ids[come], first.ids[gone])]
    changed = {*first.images_beside(second), *second.images_beside(first)}
    there, here = set(old.info.sources), set(new.info.sources)
    return Difference(
        revisions=(old.manifest.revision, new.manifest.revision),
        rows=(len(old), len(new)),
        images_added=tuple(name for name in new.info.sources if name not in there),
        images_removed=tuple(name for name in old.info.sources if name not in here),
        images_changed=tuple(name for name in new.info.sources if name in changed and name in there),
        classes_added=tuple(name for name in new.info.classes if name not in old.info.classes),
        classes_removed=tuple(name for name in old.info.classes if name not in new.info.classes),
        classes=tuple(ClassRows(name, *map(int, row)) for name, row in zip(names, np.stack(counts, 1), strict=True)),
        settings=_different(_settings(old), _settings(new)),
    )


@dataclass(frozen=True)
class _Entries:
    """Label entries of a state, `[E]`, numbered so that those of two states can be compared.

    Attributes:
        held: int64, a number for the stored key and the class.
        exact: int64, the same with the weight.
        ids: class, index into the names of both states.
        image: index into `sources`.
        sources: ids of the state's images.
    """

    held: np.ndarray
    exact: np.ndarray
    ids: np.ndarray
    image: np.ndarray
    sources: tuple[str, ...]

    @classmethod
    def of(cls, state: BankContents, starts: dict[str, int], names: Sequence[str]) -> _Entries:
        """`starts` numbers the stored keys by their file, `names` are the classes of both states."""
        segments = zip(state.manifest.segments, state.parts, strict=True)
        keys = np.concatenate(
            [starts[s.keys.file] + (np.arange(s.stored) if part.rows is None else part.rows) for s, part in segments]
        )
        labels = state.rows.labels
        owner = np.repeat(np.arange(len(keys)), np.diff(labels.offsets))
        ids = np.array([names.index(name) for name in state.info.classes])[labels.ids]
        held = keys[owner] * len(names) + ids
        exact = held * (FULL + 1) + labels.weights
        return cls(held, exact, ids, state.rows.source[owner], state.info.sources)

    def images_beside(self, other: _Entries) -> list[str]:
        """Images with an entry that the other state doesn't have."""
        return [self.sources[number] for number in np.unique(self.image[~np.isin(self.exact, other.exact)])]


def _starts(*states: BankContents) -> dict[str, int]:
    """A number for the first stored key of every file, apart from those of other files."""
    stored = {segment.keys.file: segment.stored for state in states for segment in state.manifest.segments}
    ends = np.cumsum(list(stored.values()), dtype=np.int64)
    return {file: int(end) - stored[file] for file, end in zip(stored, ends, strict=True)}


def _settings(state: BankContents) -> dict[str, Any]:
    """What is set for a bank as a whole and can change."""
    manifest, decoder = state.manifest, state.manifest.decoder or {}
    colours = {f"colour of {name}": colour for name, colour in zip(state.info.classes, state.info.palette, strict=True)}
    vote = {f"decoder.{name}": value for name, value in decoder.get("settings", {}).items()}
    learnt = decoder.get("confidence") or {}
    sure = {f"confidence.{name}": learnt[name] for name in ("method", "rows") if name in learnt}
    recall = [entry["wanted"] for entry in lineage(manifest.history) if entry["action"] == "index"]
    return {"keys": manifest.keys} | colours | vote | sure | ({"index.recall": recall[-1]} if manifest.index else {})


def _different(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys((*old, *new))
    found = {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}
    return {name: pair for name, pair in found.items() if not (name.startswith("colour of ") and None in pair)}
