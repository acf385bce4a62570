"""Files go in; arrays at a known size come out.

Images and masks are read as they stand, fitted to a backbone's input, and drawn for people to look at."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
