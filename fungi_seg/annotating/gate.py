"""Somebody who waits for an answer comes before work in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

REST = 0.7  # seconds without a request after which nobody is taken to be in the middle of painting


class Gate:
    """Closed to work in the background while requests are answered, and shortly after: the next stroke is near then."""

    def __init__(self) -> None:
        self._changed, self._busy = threading.Condition(), 0
        self._quiet_since = -REST

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
                self._quiet_since = time.monotonic()
                self._changed.notify_all()

    def wait(self) -> None:
        """Come back once no request is being answered, nor was shortly before."""
        with self._changed:
            while self._busy or (left := self._quiet_since + REST - time.monotonic()) > 0:
                self._changed.wait(None if self._busy else left)
