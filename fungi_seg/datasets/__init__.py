"""Folders and JSON files go in; samples of an image, its mask and an id come out.

One module a layout; labelled images of whole data sets are opened here too."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
