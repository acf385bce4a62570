"""Checking every byte of a bank: of its present state, and of those that it can go back to."""

from __future__ import annotations

from collections.abc import Collection

from fungi_seg.bank import regression, stored_index
from fungi_seg.bank.contents import BankContents, problem
from fungi_seg.bank.going_back import state
from fungi_seg.bank.manifest import Revision, read_manifest
from fungi_seg.errors import BankError


def all_problems(bank: BankContents) -> list[str]:
    """What is wrong with a bank, a line each; see `MemoryBank.verify`."""
    found, checked = _problems(bank, ()), set(bank.files)
    for revision in bank.manifest.revisions:
        try:
            earlier = state(bank, revision.number)
            wrong = _problems(earlier, checked)
            checked |= earlier.files.keys()
        except BankError as error:
            wrong = [str(error)]
        if wrong and revision in _kept(bank):
            found += wrong
    return list(dict.fromkeys(found))


def _kept(bank: BankContents) -> tuple[Revision, ...]:
    """Earlier states that the folder keeps: some may be gone, rightly, since the bank was opened."""
    try:
        return read_manifest(bank.path).revisions
    except BankError:
        return bank.manifest.revisions


def _problems(bank: BankContents, checked: Collection[str]) -> list[str]:
    """What is wrong with a state of a bank; bytes and keys of files that are `checked` aren't read again."""
    found = bank.problems(checked)
    if not found:
        found += problem(lambda: regression.stored_equations(bank))
    if (index := bank.manifest.index) and not found:
        found += problem(lambda: stored_index.check_index(bank, index))
    return found
