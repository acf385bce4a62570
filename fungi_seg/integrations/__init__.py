"""The package inside other frameworks; each needs an extra of its name.

Nothing is imported before it is asked for."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
