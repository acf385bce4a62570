"""A bank goes in; its doubtful annotations come out, and images that it could do without.

Each annotated image is held against all the others."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
