"""Settings go in; what each is worth comes out, with paired intervals.

Features are computed once and serve every combination."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
