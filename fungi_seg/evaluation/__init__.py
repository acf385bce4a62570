"""Masks and truth go in; figures come out: mIoU, per-class tables, reports.

Masks come from a bank or from disk; published protocols and COCO results are known here."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
