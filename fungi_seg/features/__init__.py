"""Images go in; unit vectors come out, a vector a patch or a vector an image.

A frozen backbone gives tokens, and gradients of self-supervised losses enrich them (FUNGI)."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
