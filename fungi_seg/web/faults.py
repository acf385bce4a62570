"""What a client is told where something can't be done: JSON with one sentence, never where in the code it happened."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException

from fungi_seg.annotating import Conflict, NotThere
from fungi_seg.errors import FungiSegError

SOON = 1  # seconds
Headers = list[tuple[bytes, bytes]]


class ComeAgain(FungiSegError):
    """What can't be done now, but can be soon.

    Attributes:
        seconds: after which to ask again.
    """

    def __init__(self, text: str, seconds: int = SOON):
        super().__init__(text)
        self.seconds = seconds


class Unready(ComeAgain):
    """The bank isn't loaded yet, or isn't there."""


class TooBusy(ComeAgain):
    """As many requests wait as may."""


class TooSlow(ComeAgain):
    """The answer took longer than it may."""


STATUS: tuple[tuple[type[FungiSegError], int], ...] = (
    (TooBusy, 429),
    (ComeAgain, 503),
    (NotThere, 404),
    (Conflict, 409),
    (FungiSegError, 422),
)


def status_of(error: FungiSegError) -> int:
    """Of the answer that tells of an error."""
    return next(status for kind, status in STATUS if isinstance(error, kind))


def http_error(status: int, detail: str, headers: Mapping[str, str] | None = None) -> HTTPException:
    """An error that becomes an answer wherever it is raised while a request is read."""
    return HTTPException(status, detail, dict(headers or {}))


def answer(status: int, detail: str, headers: Mapping[str, str] | None = None) -> tuple[dict[str, Any], bytes]:
    """The start of an ASGI answer, and its body."""
    body = json.dumps({"detail": detail}).encode()
    given = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    encoded: Headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]
    return {"type": "http.response.start", "status": status, "headers": encoded}, body


def sentence(problems: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with a request, as pydantic found it."""
    found = []
    for problem in problems[:5]:
        place = ".".join(str(part) for part in problem.get("loc", ()))
        found.append(f"{place}: {problem.get('msg', 'is wrong')}")
    return "; ".join(found) or "the request can't be understood"
