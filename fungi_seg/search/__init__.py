"""Keys and queries go in; the nearest keys of each query, and how much each counts, come out.

Exact, by coded lists, or by any FAISS index."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
