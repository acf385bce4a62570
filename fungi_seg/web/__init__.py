"""Requests of HTTP go in; masks, explanations and the annotation page come out.

Needs the extra `web`."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
