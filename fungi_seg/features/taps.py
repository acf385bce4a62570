"""A thread's look into the forward passes of a model that many threads share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Tap:
    """A forward hook that stays on its module, and does what the running thread asked for, if it asked for anything.

    A hook that is hung up for one call is met by the calls of all other threads as well.
    """

    def __init__(self) -> None:
        self._asked = threading.local()

    @contextmanager
    def asking(self, function: Callable[[Tensor, Tensor], Tensor | None]) -> Iterator[None]:
        """Call `function(input, output)` when this thread has run the module.

        What it returns, if anything, takes the output's place.
        """
        before = getattr(self._asked, "function", None)
        self._asked.function = function
        try:
            yield
        finally:
            self._asked.function = before

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """What PyTorch calls."""
        function = getattr(self._asked, "function", None)
        return None if function is None else function(inputs[0], output)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process has been asked for nothing; a thread's own state can't be copied."""
        return Tap, ()
