"""Listen at an address, and serve until told to stop."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

from fungi_seg.errors import FungiSegError, MissingExtra
from fungi_seg.web.settings import LARGEST_PORT, ServeConfig

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise MissingExtra("web", error) from error

HEAD_SECONDS = 15.0  # for the first lines of a request to arrive
READ_SECONDS = 60.0  # for a client to take the next part of an answer
KEEP_ALIVE = 15
LAST_SECONDS = 5  # for answers on their way, when the server stops
TRIES = 50
BACKLOG = 256


def listening(config: ServeConfig) -> socket.socket:
    """A socket that listens where it should.

    Raises:
        FungiSegError: the port is taken, or the address isn't this machine's.
    """
    try:
        return _bound(config.host, config.port)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            free = _free_port(config)
            raise FungiSegError(
                f"port {config.port} is taken, by another server or one of yours; "
                + (f"port {free} is free: --port {free}" if free else "name another: --port PORT")
            ) from error
        if number in (errno.EACCES, errno.EPERM):
            raise FungiSegError(f"port {config.port} needs more rights than you have; name one above 1023") from error
        raise FungiSegError(
            f"host is {config.host!r}, which isn't an address of this machine ({error}); leave it out, or name 0.0.0.0 "
            f"for all of its addresses"
        ) from error


def server_of(app: Any, started: Callable[[], None]) -> uvicorn.Server:
    """A server whose `run` takes sockets from `listening`, and ends when the process is interrupted or told to end.

    Args:
        app: from `create_app`.
        started: called once requests are answered.
    """
    settings = uvicorn.Config(
        app,
        http=_PatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    return _Server(settings, started)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]):
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell so."""
        await super().startup(sockets)
        if self.started:
            self._on_start()


class _PatientProtocol(H11Protocol):
    """HTTP that doesn't wait for ever: for the first lines of a request, or for a client to read its answer."""

    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Go on, or begin to wait for the next request."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        self._forget()
        self._took()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._unread = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self._took()

    def _took(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _watch(self) -> None:
        if self._answering():
            self._forget()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self) -> None:
        self._head = None
        if not self._answering() and not self.transport.is_closing():
            self.transport.close()

    def _forget(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


def _bound(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)


def _free_port(config: ServeConfig) -> int | None:
    """One of the next ports, if it can be listened at."""
    for port in range(config.port + 1, min(config.port + TRIES, LARGEST_PORT) + 1):
        try:
            _bound(config.host, port).close()
            return port
        except OSError:
            continue
    return None
