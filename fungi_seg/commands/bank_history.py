"""The commands that show what was done with a memory bank, and take it back: `fungi-seg bank history` and the like."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict


def history(bank: str, json: str | None = None) -> None:
    """Show what was done with a bank, when, with which settings, and which revisions it can go back to.

    Args:
        bank: folder of the bank.
        json: file to write it to with all settings, as JSON; - prints it in place of a table.
    """
    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.bank_changes import short
    from fungi_seg.commands.output import STANDARD_OUTPUT, print_table, write

    opened = MemoryBank.open(bank)
    kept = {*opened.revisions, opened.revision}
    changes = [{"revision": n, "kept": n in kept, **entry} for n, entry in enumerate(opened.history, 1)]
    write(json, json_module.dumps(changes, indent=1, ensure_ascii=False))
    if json == STANDARD_OUTPUT:
        return
    rows = []
    for entry in changes:
        settings = {k: entry[k] for k in entry if k not in ("revision", "kept", "time", "action", "rows", "made_by")}
        state = "now" if entry["revision"] == opened.revision else "kept" if entry["kept"] else ""
        texts = (entry["revision"], state, entry["time"], entry["action"], entry["rows"], short(settings))
        rows.append([*map(str, texts)])
    print_table(["revision", "", "when", "what", "rows after it", "with"], rows, "left")


def undo(bank: str) -> None:
    """Take back the last change of a bank; once more, the one before it.

    Args:
        bank: folder of the bank.
    """
    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.bank_changes import report_return

    opened = MemoryBank.open(bank)
    report_return(opened, opened.undo())


def checkout(bank: str, revision: int) -> None:
    """Make a bank what it was at an earlier revision; bank history shows them.

    Args:
        bank: folder of the bank.
        revision: number of the revision.
    """
    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.bank_changes import report_return

    opened = MemoryBank.open(bank)
    report_return(opened, opened.checkout(revision))


def diff(bank: str, old: int | None = None, new: int | None = None, json: str | None = None) -> None:
    """Show what differs between two revisions of a bank; what the last change did, where none are named.

    Args:
        bank: folder of the bank.
        old: a revision; the one before the present one by default.
        new: another; the present one by default.
        json: file to write it to with all names, as JSON; - prints it in place of tables.
    """
    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.bank_changes import print_difference
    from fungi_seg.commands.output import STANDARD_OUTPUT, write

    opened = MemoryBank.open(bank)
    found = opened.diff(old, new)
    write(json, json_module.dumps(asdict(found), indent=1, ensure_ascii=False))
    if json != STANDARD_OUTPUT:
        print_difference(opened, found)
