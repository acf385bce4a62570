"""Segmentations of many images go in, one after another; a folder of masks, tables and a page to look at comes out.

A run that was stopped goes on where it was, and the results of another one are never half replaced."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
