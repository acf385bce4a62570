"""Errors of requests that can't be met as things are."""

from __future__ import annotations

from fungi_seg.errors import FungiSegError


class NotThere(FungiSegError):
    """Something is asked for that there isn't."""


class Conflict(FungiSegError):
    """It can't be done now: somebody else changed the same thing, or something must come first.

    Args:
        message: what is wrong, and what to do.
        reason: `version` (another one changed it), `busy`, or `early` (something must come first).
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason
