"""Settings of the server. They import nothing heavy: the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from urllib.parse import urlsplit

from fungi_seg.errors import FungiSegError

PORT = 8765
LARGEST_PORT = 65535


@dataclass(frozen=True)
class LimitConfig:
    """What a request may take.

    Args:
        megabytes: of a request's body, in 2**20 bytes.
        megapixels: of an image that is sent, in millions; looked at before it is decoded.
        queue: requests that may wait for the model; further ones are told to come again.
        workers: requests that the model works on at once.
        seconds: for the model's answer, waiting included.
        upload_seconds: for a request's body to arrive.
    """

    megabytes: int = 64
    megapixels: int = 100
    queue: int = 16
    workers: int = 1
    seconds: float = 120.0
    upload_seconds: float = 60.0

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            least = 0 if option.name == "queue" else 1
            if option.name.endswith("seconds"):
                if not 0 < value < float("inf"):
                    raise FungiSegError(f"limits.{option.name} is {value}; it must be above 0 seconds")
            elif value < least:
                raise FungiSegError(f"limits.{option.name} is {value}; it must be at least {least}")

    @property
    def bytes(self) -> int:
        """Of a request's body, at most."""
        return self.megabytes << 20

    @property
    def pixels(self) -> int:
        """Of an image that is sent, at most."""
        return self.megapixels * 1_000_000


@dataclass(frozen=True)
class ServeConfig:
    """Where the server listens, and whom it serves.

    Attributes:
        host: address to listen at.
        port: to listen at; 0 takes a free one.
        limits: what a request may take.
        token: that a client must show; none where only this machine reaches the server.
        label_studio: address of the Label Studio whose images may be fetched, if any.
        label_studio_key: of its API, sent to that address alone.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    limits: LimitConfig = LimitConfig()
    token: str | None = field(default=None, repr=False)
    label_studio: str | None = None
    label_studio_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= LARGEST_PORT:
            raise FungiSegError(f"port is {self.port}; it must be 0 to {LARGEST_PORT}")
        if not is_loopback(self.host) and not self.token:
            raise FungiSegError(
                f"host is {self.host!r}, which other machines reach: a server there needs a token; serve at 127.0.0.1, "
                f"or let `fungi-seg serve` make one"
            )
        if self.label_studio is not None:
            origin_of(self.label_studio)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens at `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def origin_of(address: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address.

    Raises:
        FungiSegError: no address of HTTP, or one that holds a user's name.
    """
    try:
        parts = urlsplit(address)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme not in ("http", "https") or not host or "@" in parts.netloc:
        raise FungiSegError(f"{address!r:.200} is no address such as http://localhost:8080")
    return scheme, host, port or {"http": 80, "https": 443}[scheme]
