"""The regression that a bank carries: made from its rows, and kept up when they change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fungi_seg.bank.contents import BankContents
from fungi_seg.bank.keys import CHUNK_ROWS, decode
from fungi_seg.bank.labels import SparseLabels
from fungi_seg.bank.manifest import Manifest, history_entry
from fungi_seg.bank.revisions import GOING_BACK
from fungi_seg.bank.ridge import Equations, Lift, class_weights, waves_for
from fungi_seg.bank.settings import PUBLISHED_WEIGHT
from fungi_seg.bank.shares import row_mass
from fungi_seg.bank.writer import BankWriter
from fungi_seg.errors import BankError

BY_ROWS = ("append", "replace", "remove", "merge")  # changes after which a row that stayed says what it said before
UNCHANGED = ("index", "fit", *GOING_BACK)  # a state that is gone back to has its own

Chunks = Iterator[tuple[np.ndarray, SparseLabels]]


def lift_for(bank: BankContents, kind: str, bandwidth: float, gradient_weight: float | None) -> Lift:
    """What a regression of this kind sees of the bank's rows.

    Raises:
        BankError: it wants gradients, and there are none.
    """
    width, dim = bank.info.token_width, bank.info.dim
    if kind == "feature" and width == dim:
        raise BankError(
            f"{bank.path}: decoder.ridge is 'feature' (token and gradient), but the bank's features are plain; "
            f"use token"
        )
    weight = gradient_weight if kind == "feature" and gradient_weight is not None else PUBLISHED_WEIGHT
    if kind == "fourier":
        return Lift(kind, width, dim, bandwidth, waves=waves_for(len(bank)))
    return Lift(kind, width, dim, gradient_weight=weight)


def fresh_equations(bank: BankContents, lift: Lift) -> Equations:
    """The normal equations of all rows, all classes counting the same."""
    weights = class_weights(row_mass(bank.rows.labels, len(bank.info.classes)))
    return Equations.empty(lift, weights).with_rows(_rows(bank, {}))


def stored_equations(bank: BankContents) -> Equations | None:
    """Those that the bank carries, if any.

    Raises:
        BankError: they aren't ones of this bank.
    """
    entry = bank.manifest.ridge
    if entry is None:
        return None
    where = str(bank.path / entry.file)
    found = Equations.from_arrays(bank.files[entry.file].arrays(), len(bank.info.classes), where)
    if (found.lift.token_width, found.lift.dim) != (bank.info.token_width, bank.info.dim):
        raise BankError(f"{where}: is of keys of another width; fit the bank again: fungi-seg bank fit")
    return found


def kept_up(bank: BankContents, manifest: Manifest, writer: BankWriter) -> Manifest:
    """`manifest`, to which `bank` is about to be changed, with the regression of its rows if the bank carries one.

    Rows that came are added and those that went are taken away; where labels or keys themselves changed, all are
    summed anew.
    """
    stored = stored_equations(bank)
    if stored is None or manifest.history[-1]["action"] in UNCHANGED:
        return manifest
    after = bank.changed(replace(manifest, ridge=None))
    classes = after.info.classes
    if manifest.history[-1]["action"] in BY_ROWS and classes[: len(bank.info.classes)] == bank.info.classes:
        there, before = _places(after), _places(bank)
        gone, come = sum(len(t) for t, _ in _rows(bank, there)), _rows(after, before)
        if gone <= len(after):
            found = _with_classes(stored, after).with_rows(_rows(bank, there), -1).with_rows(come)
            return replace(manifest, ridge=writer.arrays("ridge", found.arrays()))
    found = fresh_equations(after, stored.lift)
    return replace(manifest, ridge=writer.arrays("ridge", found.arrays()))


def with_decoder(bank: BankContents, writer: BankWriter, record: dict[str, Any]) -> Manifest:
    """The bank with settings of the vote; see `MemoryBank.keep_decoder`."""
    settings, entry = record["settings"], None
    if settings["ridge"] != "none":
        lift = lift_for(bank, settings["ridge"], settings["ridge_bandwidth"], settings.get("gradient_weight"))
        entry = writer.arrays("ridge", fresh_equations(bank, lift).arrays())
    done = history_entry("fit", len(bank), settings=settings)
    return replace(bank.manifest, decoder=record, ridge=entry, history=(*bank.manifest.history, done))


def _with_classes(stored: Equations, after: BankContents) -> Equations:
    """The equations with places for classes that are new, which count as the others once did."""
    new = len(after.info.classes) - len(stored.class_weights)
    mass = row_mass(after.rows.labels, len(after.info.classes))
    return replace(
        stored,
        class_weights=np.concatenate([stored.class_weights, class_weights(mass[len(mass) - new :])]),
        targets=np.pad(stored.targets, ((0, 0), (0, new))),
    )


def _places(bank: BankContents) -> dict[str, np.ndarray]:
    """Which stored keys count, by the file that they are in."""
    return {
        segment.keys.file: np.arange(segment.stored) if part.rows is None else part.rows
        for segment, part in zip(bank.manifest.segments, bank.parts, strict=True)
    }


def _rows(bank: BankContents, but: dict[str, np.ndarray]) -> Chunks:
    """Keys and labels of the rows, chunk by chunk, without those whose file and place are in `but`."""
    first = 0
    for segment, part in zip(bank.manifest.segments, bank.parts, strict=True):
        part.check()
        places = np.arange(segment.stored) if part.rows is None else part.rows
        chosen = np.flatnonzero(~np.isin(places, but.get(segment.keys.file, ())))
        for start in range(0, len(chosen), CHUNK_ROWS):
            rows = chosen[start : start + CHUNK_ROWS]
            yield decode(part.take(rows), bank.info.dim), bank.rows.labels.take(first + rows)
        first += segment.rows
