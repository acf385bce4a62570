"""Who may ask the server, checked before anything else sees a request; and what every answer tells a browser.

Only this machine reaches a server at a loopback address, but so does every web page that its user looks at. Three
checks keep them out: the name the server is asked by (a page whose name was made to lead here has another one), the
origin of what isn't a plain reading, and a header that pages elsewhere can't send. A server that others reach needs a
token as well.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from fungi_seg.web.faults import Headers, answer
from fungi_seg.web.settings import ServeConfig, is_loopback

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
SECURITY = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
CACHING = ("cache-control", "no-store")
READING = ("GET", "HEAD", "OPTIONS")
OPEN = ("/health", "/ready")  # what starts and watches a server asks these, and knows no token
STRANGER = "fungi_seg.stranger"  # in a request's scope: whoever asks showed no token, and is told no paths
PAGE = "/ui/api"
HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")

log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware around everything else.

    Args:
        app: what is guarded.
        config: where the server listens, and its token.
    """

    def __init__(self, app: App, config: ServeConfig):
        self.app, self.config = app, config
        self._cookie = f"fungi_seg_{config.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        told = Told(send)
        refused = self._refusal(scope)
        if refused:
            await told.answer(*refused)
            return
        try:
            await self.app(scope, receive, told)
        except Exception:  # which the client isn't told; an answer that began is cut off
            log.exception("a request failed: %s %r", scope["method"], scope["path"])
            if told.began:
                raise
            await told.answer(500, "the server made a mistake; its log says more")

    def _refusal(self, scope: Scope) -> tuple[Any, ...] | None:
        """Status, sentence and headers of the answer to a request that goes no further."""
        headers = _headers(scope)
        host = headers.get("host", "")
        if not self._is_own(host):
            return 403, f"the server isn't called {host!r:.100}; ask it at the address that it printed", None
        if wrong := _from_elsewhere(scope, headers, host):
            return 403, wrong, None
        if self.config.token is None:
            return None
        entry = self._entry(scope, headers)
        if entry:
            return entry
        scope[STRANGER] = not self._knows(headers)
        if scope["path"] in OPEN or not scope[STRANGER]:
            return None
        return 401, "a token is needed; open the address that the server printed", {"www-authenticate": "Bearer"}

    def _is_own(self, host: str) -> bool:
        """Whether a request asks this server by a name of its own.

        With a token any name will do: a page of another name has no cookie here.
        """
        found = HOST.fullmatch(host)
        return bool(found) and (self.config.token is not None or is_loopback(found["name"]))  # type: ignore[index]

    def _entry(self, scope: Scope, headers: dict[str, str]) -> tuple[Any, ...] | None:
        """The answer to the address with the token: a cookie, and the address without it."""
        if scope["path"] != "/" or scope["method"] != "GET":
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        shown = [value for name, value in query if name == "token"]
        if not shown or not self._is_token(shown[-1]):
            return None
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        cookie = f"{self._cookie}={self.config.token}; Path=/; HttpOnly; SameSite=Strict"
        where = f"/?{rest}" if rest else "/"
        return 303, "the token is kept in a cookie", {"location": where, "set-cookie": cookie}

    def _knows(self, headers: dict[str, str]) -> bool:
        return self._is_token(_cookie(headers, self._cookie)) or self._is_token(_bearer(headers))

    def _is_token(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode("utf-8", "replace"), (self.config.token or "").encode())


class Told:
    """What is sent to a client, with the headers that every answer has.

    Attributes:
        began: an answer's start was sent.
    """

    def __init__(self, send: Send):
        self._send, self.began = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.began = True
            headers: Headers = list(message.get("headers", ()))
            names = {name.lower() for name, _ in headers}
            for name, value in (*SECURITY.items(), CACHING):
                if name.encode() not in names:
                    headers.append((name.encode(), value.encode()))
            message = {**message, "headers": headers}
        await self._send(message)

    async def answer(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        """Send a sentence as the whole answer; the connection ends with it, for a body may be on its way."""
        start, body = answer(status, detail, {"connection": "close", **(headers or {})} if status >= 400 else headers)
        await self(start)
        await self._send({"type": "http.response.body", "body": body})


def _from_elsewhere(scope: Scope, headers: dict[str, str], host: str) -> str | None:
    """What is wrong with a request that a page of another origin may have made."""
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "")
    if scope["method"] in READING:
        if site in ("cross-site", "same-site") and mode != "navigate":
            return "pages of other origins get nothing here"
        return None
    origin = headers.get("origin")
    if site not in ("same-origin", "none") or (origin is not None and not _is_at(origin, host)):
        return "pages of other origins can't change anything here"
    if scope["path"].startswith(PAGE):
        if headers.get("x-fungi-seg") != "1":
            return "requests of the page have the header X-Fungi-Seg: 1"
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return "requests of the page have the header Content-Type: application/json"
    return None


def _is_at(origin: str, host: str) -> bool:
    """Whether an origin is that of the server itself, over TLS or not."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _headers(scope: Scope) -> dict[str, str]:
    """By name; of one that is repeated all values, so that none of them passes for the only one."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _cookie(headers: dict[str, str], name: str) -> str:
    try:
        kept = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return kept.value if kept else ""


def _bearer(headers: dict[str, str]) -> str:
    """The token of `Authorization`: as a bearer's, or as the password of a client that only knows passwords."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""
