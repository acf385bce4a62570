"""Every marked line is wrong; `tests/test_typed.py` sees that a type checker says so of it, and of no other."""

from __future__ import annotations

from fungi_seg import BankConfig, MemoryBank, Segmenter, load_backbone
from fungi_seg.segmentation import ObjectConfig

BankConfig(size="many")  # wrong
load_backbone(7)  # wrong
bank = MemoryBank.open("bank")
bank.remove(images=3)  # wrong
bank.diff("1")  # wrong
found = Segmenter(bank).predict("photo.jpg")
print(found.masc)  # wrong
number: str = len(bank)  # wrong
found.objects(ObjectConfig(split=1.5))  # wrong
