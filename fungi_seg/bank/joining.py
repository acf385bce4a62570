"""The parts of a bank as one: its rows chosen from their candidates, the keys left where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.bank import shares
from fungi_seg.bank.bank import MemoryBank
from fungi_seg.bank.build import ready_for_search
from fungi_seg.bank.manifest import SHARD, Entry, Manifest, Segment, StoredFile, history_entry, read_manifest
from fungi_seg.bank.mirror import local, mirror_at
from fungi_seg.bank.rows import PRIORITIES, Table, from_arrays, to_arrays
from fungi_seg.bank.settings import MANIFEST
from fungi_seg.bank.shards import Share
from fungi_seg.bank.stream import no_label
from fungi_seg.bank.writer import SHARDS, BankWriter, changing, check_target
from fungi_seg.errors import BankError, DataError, listing


@dataclass(frozen=True)
class _Part:
    """A part of the bank.

    Attributes:
        folder: where it lies.
        manifest: of it.
        first: number of its first image among those of all parts.
    """

    folder: Path
    manifest: Manifest
    first: int = 0

    @property
    def told(self) -> dict[str, Any]:
        """What it says of itself beside its rows."""
        told: dict[str, Any] = self.manifest.info.build[SHARD]
        return told

    def check_keys(self) -> None:
        """Raise unless the files with its keys are there, of their size."""
        for segment in self.manifest.segments:
            StoredFile(self.folder, segment.keys)

    def segments(self) -> Iterator[tuple[Segment, Table, np.ndarray]]:
        """Its candidates with their priorities, file by file; keys aren't read."""
        info = self.manifest.info
        for segment in self.manifest.segments:
            file = StoredFile(self.folder, segment.table)
            arrays = file.arrays()
            limits = segment.rows, segment.stored, len(info.classes), len(info.sources)
            table, _ = from_arrays(arrays, *limits, str(file.path))
            priorities = arrays.get(PRIORITIES, np.empty(0))
            if priorities.shape != (segment.rows,) or priorities.dtype != np.float64:
                raise BankError(f"{file.path}: holds no priorities of its rows; remove {self.folder}, build it again")
            yield segment, table, priorities


def join_shards(out: str | Path, overwrite: bool = False) -> MemoryBank:
    """As `join_to_manifest`; the bank, opened."""
    join_to_manifest(out, overwrite)
    return MemoryBank.open(out)


def join_to_manifest(out: str | Path, overwrite: bool = False) -> Manifest:
    """Make the parts in `out`, which `ShardedBuild` wrote, one bank. Their keys stay where they are.

    In an object store they aren't fetched either, so that such a bank gets no index.

    The rows are those that one build of all images gives, in the same order, for any number of parts.

    Args:
        out: folder or address of the bank.
        overwrite: replace a bank that is there.

    Returns:
        What the bank holds.

    Raises:
        BankError: parts are missing, damaged, or of several builds; a bank is there already; nothing can be written.
        DataError: no patch is labelled in any of them.
    """
    out = local(out)
    check_target(out, overwrite)
    mirror = mirror_at(out)
    if mirror:
        mirror.fetch_parts()
    parts = _parts(out)
    if not sum(len(part.manifest) for part in parts):
        skipped = _skipped(parts)
        raise DataError(
            f"no labelled patch in any of the {len(parts)} shards of {out}"
            + (f"; skipped:\n{listing(skipped)}\n" if skipped else ": every pixel is void. ")
            + "Check data.void, data.values and the masks"
        )
    limit = _limit(parts)
    with changing(out) as writer:
        check_target(out, overwrite)  # once more: another process may have been faster
        segments = _chosen(parts, limit, writer)
        for part in () if mirror else parts:
            part.check_keys()
        manifest = _joined(parts, segments)
        if (support := parts[0].manifest.support) is not None:
            manifest = replace(manifest, support=writer.stream(support, StoredFile(parts[0].folder, support).stream()))
        manifest = manifest if mirror else ready_for_search(out, manifest, writer)
        writer.commit(manifest)
    return manifest


def _parts(out: Path) -> list[_Part]:
    """All parts of the one build that is complete, in their order."""
    groups = sorted(group for group in (out / SHARDS).glob("*") if group.is_dir())
    if not groups:
        raise BankError(f"{out / SHARDS}: no shards there; build them with fungi-seg build --shard 1/2 --out {out}, …")
    found = {group: _complete(group) for group in groups}
    whole = [parts for parts in found.values() if isinstance(parts, list)]
    if len(whole) == 1:
        return whole[0]
    if whole:
        names = [f"{parts[0].folder.parent}: {len(parts)} shards, {_made(parts)}" for parts in whole]
        raise BankError(
            f"{out}: the shards of {len(whole)} builds are complete; remove those of all but one:\n{listing(names)}"
        )
    raise BankError(f"{out}: the shards of no build are complete:\n{listing(list(found.values()))}")


def _complete(group: Path) -> list[_Part] | str:
    """The parts of a build, or what is missing."""
    parts = {}
    for folder in sorted(group.glob("*-of-*")):
        if (folder / MANIFEST).is_file():
            part = _Part(folder, read_manifest(folder))
            told = part.manifest.info.build.get(SHARD)
            if not isinstance(told, dict) or folder.name != Share(told["number"], told["count"]).folder:
                raise BankError(f"{folder}: isn't the shard that its name says; remove it, and build it again")
            if part.manifest.revision != 1:
                raise BankError(f"{folder}: the shard was changed since it was built; remove it, and build it again")
            parts[told["number"]] = part
    counts = {part.told["count"] for part in parts.values()}
    purposes = {part.told["purpose"] for part in parts.values()}
    if len(counts) > 1 or len(purposes) > 1:
        raise BankError(f"{group}: holds shards of several builds; remove it, and build them again")
    if not parts:
        return f"{group.name}: none is complete"
    count = counts.pop()
    missing = [number for number in range(1, count + 1) if number not in parts]
    if missing:
        some = ", ".join(f"--shard {Share(number, count)}" for number in missing[:8]) + (", …" if missing[8:] else "")
        return f"{group.name}: {len(missing)} of {count} are missing: {some}"
    ordered, first = [], 0
    for number in range(1, count + 1):
        ordered.append(replace(parts[number], first=first))
        first += len(parts[number].manifest.info.sources)
    return ordered


def _made(parts: Sequence[_Part]) -> str:
    return f"made {max(part.manifest.info.created for part in parts)}"


def _limit(parts: Sequence[_Part]) -> float:
    """The highest priority of a row that stays: one part after another is read, twice, and little of them kept.

    Priorities are ranks within an image and a fraction; the last rank of which rows stay is found by counting.
    """
    size = parts[0].manifest.info.build["size"]
    if size is None or sum(len(part.manifest) for part in parts) <= size:
        return float(np.inf)
    counts = np.zeros(0, np.int64)
    for part in parts:
        for _, _, priorities in part.segments():
            ranks = np.bincount(priorities.astype(np.int64), minlength=len(counts))
            ranks[: len(counts)] += counts
            counts = ranks
    below = np.concatenate([[0], counts.cumsum()])
    rank = int(np.searchsorted(below, size) - 1)
    of_rank = [
        priorities[priorities.astype(np.int64) == rank] for part in parts for _, _, priorities in part.segments()
    ]
    left = size - int(below[rank])
    return float(np.partition(np.concatenate(of_rank), left - 1)[left - 1])


def _chosen(parts: Sequence[_Part], limit: float, writer: BankWriter) -> tuple[Segment, ...]:
    """The rows up to a priority, with the keys where they are: epoch by epoch, as one build orders them."""
    found: list[tuple[int, Segment]] = []
    for part in parts:
        for segment, table, priorities in part.segments():
            kept = np.flatnonzero(priorities <= limit)
            if not len(kept):
                continue
            rows = table.take(kept)
            rows = replace(rows, source=rows.source + np.int32(part.first))
            whole = len(kept) == segment.stored
            entry = writer.arrays("table", to_arrays(rows, None if whole else kept))
            chosen = Segment(_from(part, segment.keys), entry, len(kept), segment.stored)
            found.append((int(table.epoch[0]), chosen))
    found.sort(key=lambda pair: pair[0])
    return tuple(segment for _, segment in found)


def _from(part: _Part, keys: Entry) -> Entry:
    """A file of a part as one of the bank's."""
    return replace(keys, file="/".join([SHARDS, part.folder.parent.name, part.folder.name, keys.file]))


def _joined(parts: Sequence[_Part], segments: tuple[Segment, ...]) -> Manifest:
    """The manifest of all parts together, as one build writes it."""
    first = parts[0].manifest
    infos = [part.manifest.info for part in parts]
    build = {key: value for key, value in first.info.build.items() if key != SHARD} | {
        "images": sum(info.build["images"] for info in infos),
        "available_rows": sum(info.build["available_rows"] for info in infos),
        "skipped": _skipped(parts),
    }
    sources = tuple(name for info in infos for name in info.sources)
    info = replace(first.info, sources=sources, build=build, created=min(info.created for info in infos))
    pixels: shares.Pixels | None = first.class_pixels
    for part in parts[1:]:
        pixels = shares.added(pixels, part.manifest.class_pixels)
    rows = sum(segment.rows for segment in segments)
    told = {key: first.history[0].get(key) for key in ("data", "bank", "seed")}
    built = history_entry(
        "build", rows, images=build["images"], **told, skipped=build["skipped"], shards=[p.manifest.seal for p in parts]
    )
    return Manifest(info, first.keys, segments, None, None, (built,), pixels)


def _skipped(parts: Sequence[_Part]) -> list[str]:
    """What was skipped in all parts, in the order in which one build tells it."""
    unusable = [line for part in parts for line in part.told["unusable"]]
    unlabelled = [no_label(name) for part in parts for name in part.told["unlabelled"]]
    return [*parts[0].told["problems"], *unusable, *unlabelled]
