"""Changing a bank so that the change can be taken back, and taking it back."""

from __future__ import annotations

import logging
from dataclasses import replace

from fungi_seg.bank.contents import BankContents
from fungi_seg.bank.manifest import Manifest, Revision, history_entry
from fungi_seg.bank.regression import kept_up
from fungi_seg.bank.revisions import read_revision, went_to
from fungi_seg.bank.writer import BankWriter
from fungi_seg.errors import BankError

MOST_KEPT = 20  # a fitted bank may write megabytes of equations with every change
ENDING = ("compact",)  # changes that free the disk of what went before
ENDS = f"fungi-seg bank compact ends them, and more than {MOST_KEPT} aren't kept"

log = logging.getLogger(__name__)


def committed(bank: BankContents, manifest: Manifest, writer: BankWriter) -> BankContents:
    """Make `manifest`, which `bank` was changed to, the bank: its regression kept up, and the way back kept open."""
    writer.commit(_with_way_back(bank, kept_up(bank, manifest, writer), writer))
    return BankContents.open(bank.path, bank.files)


def _with_way_back(bank: BankContents, manifest: Manifest, writer: BankWriter) -> Manifest:
    """`manifest` with `bank` as it is now among the states that it can go back to."""
    if manifest.history[-1]["action"] in ENDING:
        return replace(manifest, revisions=())
    kept = []
    for revision in bank.manifest.revisions[1 - MOST_KEPT :]:
        try:
            read_revision(bank.path, revision)
            kept.append(revision)
        except BankError as error:
            log.warning("%s; the bank can't go back to it any more", error)
    present = writer.text("revision", replace(bank.manifest, revisions=()).text())
    return replace(manifest, revisions=(*kept, Revision(bank.manifest.revision, present)))


def undone(bank: BankContents) -> Manifest:
    """The bank as it was before its last change; see `MemoryBank.undo`."""
    history, number = bank.manifest.history, bank.manifest.revision
    while number and history[number - 1]["action"] == "undo":
        number = went_to(history[number - 1], number)
    if number - 1 not in {revision.number for revision in bank.manifest.revisions}:
        last = f" ({history[number - 1]['action']})" if number else ""
        raise BankError(f"{bank.path}: the last change{last} can't be taken back. {_reach(bank)}")
    return went_back(bank, number - 1, "undo")


def went_back(bank: BankContents, number: int, action: str = "checkout") -> Manifest:
    """The bank as it was at an earlier revision, every byte of it checked; see `MemoryBank.checkout`."""
    if number == bank.manifest.revision:
        raise BankError(f"{bank.path}: revision {number} is what the bank is now. {_reach(bank)}")
    earlier = state(bank, number)
    earlier.check_files()
    done = history_entry(action, len(earlier), to=number)
    return replace(earlier.manifest, history=(*bank.manifest.history, done), revisions=bank.manifest.revisions)


def state(bank: BankContents, number: int) -> BankContents:
    """What an earlier revision holds, or the present one.

    Raises:
        BankError: there is no such one, or a file of it is missing or damaged.
    """
    if number == bank.manifest.revision:
        return bank
    for revision in bank.manifest.revisions:
        if revision.number == number:
            return bank.changed(read_revision(bank.path, revision))
    raise BankError(f"{bank.path}: can't go back to revision {number}. {_reach(bank)}")


def _reach(bank: BankContents) -> str:
    """What the bank can go back to."""
    numbers = ", ".join(str(revision.number) for revision in bank.manifest.revisions)
    now = f"it is at revision {bank.manifest.revision} now"
    if not numbers:
        return f"No earlier revision is kept, {now}: {ENDS}"
    return f"The earlier revisions {numbers} are kept, {now}: {ENDS}"
