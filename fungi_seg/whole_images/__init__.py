"""Labelled images go in; their class, cluster and neighbours come out.

Features of whole images are written once, then compared by k-NN, linear probe, clusters and retrieval."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
