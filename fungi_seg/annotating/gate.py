"""Somebody who waits for an answer comes before work in the background."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Closed to work in the background while a request is answered."""

    def __init__(self) -> None:
        self._changed, self._busy = threading.Condition(), 0

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A request is answered inside."""
        with self._changed:
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def wait(self) -> None:
        """Come back once no request is being answered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
