"""Generated scenes and unlabelled photographs go in; the weights of the embedded backbone come out.

Nothing of it runs when the package is used."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
