"""The address of a Ray cluster goes in, a connection to it comes out.

What can be wrong with one (versions, missing extra, folders that its machines don't share) is found here."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
