"""The contents of a bank, wherever it lies: a folder is opened as it is, an address by its mirror."""

from __future__ import annotations

from pathlib import Path

from fungi_seg.bank.contents import BankContents
from fungi_seg.bank.mirror import local, mirror_at
from fungi_seg.errors import BankError


def open_contents(place: str | Path) -> BankContents:
    """See `MemoryBank.open`."""
    folder = local(place)
    mirror = mirror_at(folder)
    if mirror is None:
        return BankContents.open(folder)
    mirror.refresh()
    try:
        return BankContents.open(folder)
    except BankError:
        if not mirror.drop_damaged():
            raise
    mirror.refresh()
    return BankContents.open(folder)
