"""A bank and an image go in; a mask comes out, and who voted for it.

Neighbours vote for each patch, and votes become classes of pixels."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
