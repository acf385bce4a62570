"""Images and strokes painted on some of them go in; masks of all, and a bank of the annotated ones, come out.

What the page of `fungi-seg serve` can do, without the page."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
