"""What a request may take: bytes, time, pixels, and a place in the queue for the model."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, TypeVar

from fungi_seg.errors import DataError
from fungi_seg.web.faults import SOON, TooBusy, TooSlow, Unready, answer, http_error
from fungi_seg.web.guard import App, Message, Receive, Scope, Send
from fungi_seg.web.settings import LimitConfig

FORMATS = (
    "JPEG",
    "MPO",
    "PNG",
    "TIFF",
    "BMP",
    "WEBP",
    "GIF",
    "PPM",
    "JPEG2000",
    "AVIF",
)  # others can do more than hold
MOST_AT_ONCE = 128  # requests, whose bodies lie in memory or on disk
CLOSE = {"connection": "close"}

Found = TypeVar("Found")


class BodyLimit:
    """ASGI middleware: a body that is too large, doesn't arrive, or is one of too many, is answered for what it is.

    Args:
        app: what reads bodies.
        limits: how large they may be, and how long they may take.
    """

    def __init__(self, app: App, limits: LimitConfig):
        self.app, self.limits, self._open = app, limits, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._open >= MOST_AT_ONCE:
            again = {**CLOSE, "retry-after": str(SOON)}
            start, body = answer(503, f"{MOST_AT_ONCE} requests are being answered; come again", again)
            await send(start)
            await send({"type": "http.response.body", "body": body})
            return
        self._open += 1
        try:
            await self.app(scope, _Body(scope, receive, self.limits).receive, send)
        finally:
            self._open -= 1


class _Body:
    """The body of one request, counted and timed while it is read."""

    def __init__(self, scope: Scope, receive: Receive, limits: LimitConfig):
        self._receive, self._limits = receive, limits
        self._said = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        self._bytes, self._ended = 0, False
        self._until = time.monotonic() + limits.upload_seconds

    async def receive(self) -> Message:
        """The next part.

        Raises:
            HTTPException: too large, or too late.
        """
        if self._ended:
            return await self._receive()
        if self._said.isdigit() and int(self._said) > self._limits.bytes:
            raise self._too_large()
        try:
            message = await asyncio.wait_for(self._receive(), max(0, self._until - time.monotonic()))
        except asyncio.TimeoutError:
            seconds = self._limits.upload_seconds
            raise http_error(408, f"the request's body didn't arrive within {seconds:g} seconds", CLOSE) from None
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
            if self._bytes > self._limits.bytes:
                raise self._too_large()
        return message

    def _too_large(self) -> Exception:
        return http_error(413, f"the request's body is larger than {self._limits.megabytes} MiB", CLOSE)


class Turns:
    """The queue for the model: a few threads work, a few requests wait, and further ones are told to come again.

    Args:
        limits: how many of each, and how long an answer may take.
    """

    def __init__(self, limits: LimitConfig):
        self.limits = limits
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._taken, self._mean = 0, 1.0

    @property
    def waiting(self) -> int:
        """Requests that wait for a turn."""
        return max(0, self._taken - self.limits.workers)

    @property
    def retry_after(self) -> int:
        """Seconds until a turn is likely to be free."""
        return max(1, math.ceil(self._mean * (self.waiting + 1) / self.limits.workers))

    def open(self) -> None:
        """Take work."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.limits.workers, thread_name_prefix="model")

    async def take(self, work: Callable[[], Found]) -> Found:
        """What `work` gives, in a thread, when its turn comes.

        Raises:
            Unready: it takes none.
            TooBusy: as many wait as may.
            TooSlow: it took too long. If it was at work it goes on, and holds its place until it ends.
        """
        pool = self._pool
        if pool is None:
            raise Unready("the server is stopping")
        with self._lock:
            if self._taken >= self.limits.workers + self.limits.queue:
                raise TooBusy(f"{self.limits.queue} requests wait already; come again", self.retry_after)
            self._taken += 1
        try:
            future = pool.submit(self._timed, work)
        except RuntimeError as error:  # of a pool that was closed just now
            self._leave()
            raise Unready("the server is stopping") from error
        future.add_done_callback(self._leave)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.seconds)
        except asyncio.TimeoutError:
            text = f"no answer within {self.limits.seconds:g} seconds; come again"
            raise TooSlow(text, self.retry_after) from None

    def close(self) -> None:
        """Take no further work; what waits is given up."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _timed(self, work: Callable[[], Found]) -> Found:
        start = time.monotonic()
        try:
            return work()
        finally:
            self._mean += 0.2 * (time.monotonic() - start - self._mean)

    def _leave(self, _: Future[Found] | None = None) -> None:
        with self._lock:
            self._taken -= 1


def check_image(file: BinaryIO, most_pixels: int) -> None:
    """Refuse an image before it is decoded, by its header alone.

    Raises:
        DataError: more pixels, or a format that nobody sends: some formats run programs, or name other files.
    """
    from fungi_seg.images import measured  # which imports torch, after the server began to listen

    kind, height, width = measured(file)
    if kind not in FORMATS:
        raise DataError(f"it is {kind} inside; send a {', '.join(FORMATS[2:-1])} or JPEG image")
    if height * width > most_pixels:
        raise DataError(
            f"it has {height}×{width} pixels (height×width), and at most {most_pixels} are taken; make it smaller, or "
            f"segment it with fungi-seg segment"
        )
    file.seek(0)
