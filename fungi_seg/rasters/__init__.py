"""Files of any size, many channels and stacks go in; windows of samples leave, as they are stored.

Masks go back the same way: window by window, into a file of the image's own kind."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
