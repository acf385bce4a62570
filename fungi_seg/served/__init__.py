"""A bank and queries go in, neighbours that other processes searched for come out.

Actors of Ray hold parts of the rows, or Milvus all of them; an answer is whole, or there is none."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
