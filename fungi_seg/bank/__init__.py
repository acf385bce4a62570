"""Annotated images go in; rows of labelled patch features on disk come out.

A bank is built in one pass, opened, changed, carried as one file, and knows the images that its rows come from."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
