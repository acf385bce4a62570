"""Whether annotations and a bank go together."""

from __future__ import annotations

from fungi_seg.annotating.store import AnnotationStore
from fungi_seg.bank import MemoryBank
from fungi_seg.datasets import DEFAULT_VOID
from fungi_seg.errors import BankError, DataError, where_lists_differ

MOST_CLASSES = DEFAULT_VOID  # of masks in 8 bits


def check_paintable(bank: MemoryBank) -> None:
    """Raise if what isn't painted would count as background in a bank."""
    if bank.info.build.get("void") == "background":
        raise BankError(
            f"{bank.path}: was built with bank.void background, so that whatever isn't painted would count as "
            f"background; build a bank with bank.void ignore, or name another one with --bank"
        )


def take_classes(store: AnnotationStore, bank: MemoryBank) -> None:
    """The bank's classes come first in the annotations.

    Raises:
        DataError: the annotations list others there.
    """
    names, own = bank.info.classes, store.classes
    if own[: len(names)] == names:
        return
    if names[: len(own)] != own:
        raise DataError(
            f"{store.folder}: its classes aren't those of the bank {bank.path}:\n"
            f"{where_lists_differ(own, names, ('annotations', 'bank'))}\n"
            f"Name another folder with --annotations, or relabel the bank as they are (fungi-seg bank relabel)"
        )
    if 0 < len(own) <= MOST_CLASSES < len(names):
        raise DataError(
            f"{store.folder}: its masks have 8 bits, where {MOST_CLASSES} means unlabelled, and the bank {bank.path} "
            f"has {len(names)} classes by now, of which that would be one; name another folder with --annotations"
        )
    store.set_classes(names, bank.info.palette)
