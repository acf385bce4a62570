"""Images go in, and banks, folders of results and reports that many machines made come out.

Ray spreads the work; each piece of it is what the other rooms do on one machine."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
