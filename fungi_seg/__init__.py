"""Segment images without training: patch features of a frozen vision transformer, a memory bank, and retrieval.

Names are imported when they are first used; `__init__.pyi` lists them.
"""

from lazy_loader import attach_stub

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
