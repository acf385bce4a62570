"""What edits do to a bank's tables. Keys stay where they are; only `compacted` writes them anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fungi_seg.bank import shares
from fungi_seg.bank.contents import BankContents
from fungi_seg.bank.keys import CHUNK_ROWS, decode, encode, key_dtype_of
from fungi_seg.bank.labels import SparseLabels
from fungi_seg.bank.manifest import BankInfo, Manifest, Segment, history_entry
from fungi_seg.bank.rows import Table, to_arrays
from fungi_seg.bank.stored_index import refitted, with_codes
from fungi_seg.bank.writer import BankWriter, Shards
from fungi_seg.datasets import colours_beside
from fungi_seg.errors import BankError, as_given, listing, nearest
from fungi_seg.provenance import code_of

Edit = Callable[[Table], tuple[Table, np.ndarray]]
NAMED = 10  # unknown names in an error, each with the nearest known one, which takes a while to find


def after(bank: BankContents, info: BankInfo, segments: Sequence[Segment], action: str, /, **details: Any) -> Manifest:
    """The manifest of a bank whose rows have become `segments`, with `action` in its history."""
    if not segments:
        raise BankError(
            f"{bank.path}: no row would be left; a bank needs at least one. To be rid of it, delete the folder"
        )
    history = (*bank.manifest.history, history_entry(action, sum(segment.rows for segment in segments), **details))
    return replace(bank.manifest, info=info, segments=tuple(segments), history=history)


def removed(bank: BankContents, writer: BankWriter, images: Sequence[str], classes: Sequence[str]) -> Manifest:
    """The bank without images and without rows that hold classes; see `MemoryBank.remove`."""
    info, segments = bank.info, bank.manifest.segments
    if images:
        info, segments = segments_without(bank, writer, set(images))
    if classes:
        others = bank.changed(replace(bank.manifest, info=info, segments=segments))
        segments = segments_without_classes(others, writer, set(classes))
    left = after(bank, info, segments, "remove", images=sorted(images), classes=sorted(classes))
    return refitted(bank, writer, replace(left, class_pixels=pixels_left(bank, images, classes)))


def pixels_left(bank: BankContents, images: Collection[str], classes: Collection[str] = ()) -> shares.Pixels | None:
    """Labelled pixels by class of what remains once rows of `images`, and rows that hold `classes`, are taken away."""
    labels = bank.rows.labels
    gone = np.array([source in images for source in bank.info.sources])[bank.rows.source]
    gone |= _holding(labels, bank.info.classes, classes)
    return shares.without(bank.manifest.class_pixels, labels, labels.take(np.flatnonzero(~gone)))


def segments_without(
    bank: BankContents, writer: BankWriter, images: Collection[str]
) -> tuple[BankInfo, tuple[Segment, ...]]:
    """The bank without the rows of `images`, and without their names."""
    _check_known("image", images, bank.info.sources, bank)
    gone = np.array([source in images for source in bank.info.sources])
    numbers = np.cumsum(~gone) - 1

    def edit(table: Table) -> tuple[Table, np.ndarray]:
        kept = np.flatnonzero(~gone[table.source])
        table = table.take(kept)
        return replace(table, source=numbers[table.source].astype(np.int32)), kept

    sources = tuple(source for source in bank.info.sources if source not in images)
    return replace(bank.info, sources=sources), edited(bank, writer, edit)


def segments_without_classes(bank: BankContents, writer: BankWriter, classes: Collection[str]) -> tuple[Segment, ...]:
    """The bank without the rows that hold any of `classes`."""
    _check_known("class", classes, bank.info.classes, bank)

    def edit(table: Table) -> tuple[Table, np.ndarray]:
        kept = np.flatnonzero(~_holding(table.labels, bank.info.classes, classes))
        return table.take(kept), kept

    return edited(bank, writer, edit)


def _holding(labels: SparseLabels, names: Sequence[str], classes: Collection[str]) -> np.ndarray:
    """`[M]` bool: rows that hold any of `classes`, of which `names` are all."""
    wanted = np.array([name in classes for name in names])
    found: np.ndarray = np.add.reduceat(wanted[labels.ids].astype(np.int64), labels.offsets[:-1]) > 0
    return found


def relabelled(
    bank: BankContents,
    writer: BankWriter,
    rename: Mapping[str, str],
    fuse: Mapping[str, Sequence[str]],
    drop: Collection[str],
) -> Manifest:
    """The bank with other classes; see `MemoryBank.relabel`."""
    info = bank.info
    names = _new_names(bank, rename, fuse, drop)
    classes = tuple(dict.fromkeys(name for name in names if name is not None))
    if not classes:
        raise BankError(f"{bank.path}: no class would be left; keep at least one")
    places = [classes.index(name) if name is not None else -1 for name in names]
    first = [places.index(number) for number in range(len(classes))]
    own = [
        info.classes.index(name) if name in info.classes else place for name, place in zip(classes, first, strict=True)
    ]
    palette = tuple(info.palette[place] for place in own)

    def edit(table: Table) -> tuple[Table, np.ndarray]:
        labels = table.labels.mapped(np.array(places), len(classes))
        kept = np.flatnonzero(np.diff(labels.offsets))
        return replace(table, labels=labels).take(kept), kept

    named = replace(info, classes=classes, palette=palette)
    left = after(bank, named, edited(bank, writer, edit), "relabel", rename=rename, fuse=fuse, drop=sorted(drop))
    pixels = shares.mapped(bank.manifest.class_pixels, places, len(classes))
    return refitted(bank, writer, replace(left, class_pixels=pixels))


def _new_names(
    bank: BankContents, rename: Mapping[str, str], fuse: Mapping[str, Sequence[str]], drop: Collection[str]
) -> list[str | None]:
    """The new name of each class, none for those that are dropped."""
    old = bank.info.classes
    used = [*rename, *(name for names in fuse.values() for name in names), *drop]
    _check_known("class", used, old, bank)
    twice = sorted({name for name in used if used.count(name) > 1})
    if twice:
        raise BankError(f"{bank.path}: {', '.join(twice)}: named more than once in rename, fuse and drop; name it once")
    changed: dict[str, str | None] = {**rename, **dict.fromkeys(drop)}
    changed |= {name: target for target, names in fuse.items() for name in names}
    names = [changed.get(name, name) for name in old]
    for new in set(names) - {None}:
        parts = [name for name, becomes in zip(old, names, strict=True) if becomes == new]
        if len(parts) > 1 and not set(parts) <= set(fuse.get(str(new), ())):
            raise BankError(
                f"{bank.path}: {' and '.join(parts)} would both be called {new!r}; "
                f"to make one class of them, fuse them all"
            )
    return names


def merged(bank: BankContents, writer: BankWriter, others: Sequence[BankContents]) -> Manifest:
    """The bank with all rows of others; see `MemoryBank.merge`."""
    info, segments, pixels = bank.info, bank.manifest.segments, bank.manifest.class_pixels
    for other in others:
        if other.path.resolve() == bank.path.resolve():
            raise BankError(f"{bank.path}: a bank can't be merged with itself; name another one")
        known = len(info.classes)
        info, added = _joined(bank, other, writer, info)
        places = [info.classes.index(name) for name in other.info.classes]
        theirs = shares.mapped(other.manifest.class_pixels, places, len(info.classes))
        pixels = shares.added(shares.mapped(pixels, range(known), len(info.classes)), theirs)
        segments = (*segments, *with_codes(bank, added, writer))
    origins = [{"path": as_given(o.path), "rows": len(o), "history": o.manifest.history} for o in others]
    return replace(after(bank, info, segments, "merge", merged=origins), class_pixels=pixels)


def _joined(
    bank: BankContents, other: BankContents, writer: BankWriter, info: BankInfo
) -> tuple[BankInfo, tuple[Segment, ...]]:
    """`info` with the classes and images of `other` added, and the rows of `other` as segments of `bank`."""
    check_same_features(bank, other)
    there = sorted(set(info.sources) & set(other.info.sources))
    if there:
        raise BankError(
            f"{other.path}: {len(there)} of its images are in {bank.path} as well:\n{listing(there)}\n"
            f"Remove them from one of the banks first (fungi-seg bank remove)"
        )
    new = [i for i, name in enumerate(other.info.classes) if name not in info.classes]
    classes = (*info.classes, *(other.info.classes[i] for i in new))
    palette = (*info.palette, *colours_beside([other.info.palette[i] for i in new], info.palette))
    places = np.array([classes.index(name) for name in other.info.classes])
    first = len(info.sources)

    def edit(table: Table) -> tuple[Table, np.ndarray]:
        labels = table.labels.mapped(places, len(classes))
        return replace(table, labels=labels, source=table.source + np.int32(first)), np.arange(len(table))

    segments = edited(other, writer, edit, [_copied(segment, other, writer) for segment in other.manifest.segments])
    return replace(info, classes=classes, palette=palette, sources=(*info.sources, *other.info.sources)), segments


def _copied(segment: Segment, other: BankContents, writer: BankWriter) -> Segment:
    """A segment of another bank with its keys among the writer's files, without codes."""
    keys = segment.keys.alone
    if writer.stream(keys, other.files[segment.keys.file].stream()) != keys:
        raise BankError(f"{other.path / segment.keys.file}: damaged (its SHA-256 isn't the manifest's); copy it again")
    return replace(segment, keys=keys, codes=None)


def check_same_features(bank: BankContents, other: BankContents) -> None:
    """Raise unless the rows of two banks can be compared with each other."""
    one, two = bank.info, other.info
    facts = {
        "features": (one.features.deciding, two.features.deciding),
        "input": (one.input, two.input),
        "width": (one.dim, two.dim),
        "void": (one.build.get("void"), two.build.get("void")),
        "version of the feature code": (code_of(one.made_by), code_of(two.made_by)),
    }
    different = [f"{what}: {a} and {b}" for what, (a, b) in facts.items() if a != b]
    if one.fingerprint != two.fingerprint:
        names, prints = (one.backbone.name, two.backbone.name), (one.fingerprint, two.fingerprint)
        named = [f"{name!r} {fingerprint}" for name, fingerprint in zip(names, prints, strict=True)]
        different.insert(0, f"weights of the backbone: {' and '.join(named)}")
    supports = (bank.manifest.support, other.manifest.support)
    if not different and [s and s.sha256 for s in supports[:1]] != [s and s.sha256 for s in supports[1:]]:
        different.append("the support sets that the features were contrasted with")
    if different:
        raise BankError(
            f"{other.path}: its features aren't those of {bank.path}:\n{listing(different)}\n"
            f"Build one of them again with the settings of the other"
        )


def compacted(bank: BankContents, writer: BankWriter, key_dtype: str | None) -> Manifest:
    """The bank in full shards without gaps, keys of another type where one is given; see `MemoryBank.compact`."""
    segments = with_codes(bank, _rewritten(bank, writer, key_dtype), writer)
    manifest = after(bank, bank.info, segments, "compact", keys=key_dtype or bank.manifest.keys)
    return replace(manifest, keys=key_dtype or bank.manifest.keys)


def _rewritten(bank: BankContents, writer: BankWriter, key_dtype: str | None) -> tuple[Segment, ...]:
    shards = Shards(writer)
    for part, table in zip(bank.parts, bank.tables(), strict=True):
        part.check()
        for start in range(0, len(table), CHUNK_ROWS):
            rows = np.arange(start, min(start + CHUNK_ROWS, len(table)))
            stored = part.take(rows)
            if key_dtype and key_dtype_of(stored) != key_dtype:
                stored = encode(decode(stored, bank.info.dim), key_dtype)
            shards.add(stored, table.take(rows))
    return shards.finish()


def edited(
    bank: BankContents, writer: BankWriter, edit: Edit, segments: Sequence[Segment] | None = None
) -> tuple[Segment, ...]:
    """Segments with tables that `edit` made; those without a row are left out."""
    if not bank.manifest.segments:  # after an edit that took all of them
        return ()
    found = []
    for segment, table, part in zip(segments or bank.manifest.segments, bank.tables(), bank.parts, strict=True):
        changed, kept = edit(table)
        if len(changed):
            places = kept if part.rows is None else part.rows[kept]
            whole = len(places) == segment.stored
            entry = writer.arrays("table", to_arrays(changed, None if whole else places))
            found.append(replace(segment, table=entry, rows=len(changed)))
    return tuple(found)


def _check_known(what: str, names: Collection[str], known: Collection[str], bank: BankContents) -> None:
    there = set(known)
    unknown = [name for name in names if name not in there]
    if unknown:
        lines = [f"{name!r}{nearest(name, known)}" for name in unknown[:NAMED]] + unknown[NAMED:]
        raise BankError(f"{bank.path}: no such {what} in the bank:\n{listing(lines, NAMED)}")
