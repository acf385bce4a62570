"""Addresses of object stores and hubs go in, files on this machine come out, and back.

Everything that fsspec reaches is read and written here, with checksums, and nowhere else."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
