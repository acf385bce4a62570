"""A server in front of another one that answers some requests otherwise, as stores do on bad days."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP = ("connection", "transfer-encoding", "content-length", "keep-alive", "date", "server")
BUSY = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>ServiceUnavailable</Code><Message>busy</Message></Error>'


@dataclass
class Fault:
    """What befalls requests of a method whose path holds a text.

    Attributes:
        method, part: which requests.
        status: answered in place of passing the request on; 0 where the answer is passed, but cut off half-way.
        times: how many requests; then it is over.
        body: of the answer.
    """

    method: str
    part: str
    status: int
    times: int = 1_000_000
    body: bytes = BUSY


class Front:
    """The server.

    Attributes:
        url: to be used in place of that of the other server.
        faults: what befalls requests, the first that fits.
        seen: method and path of all requests.
        before: called with method and path before a request is passed on; where it gives false, it isn't, nor answered.
    """

    def __init__(self, behind: str):
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str]] = []
        self.before: Callable[[str, str], object] = lambda method, path: None
        front, host = self, behind.partition("://")[2]
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    front.seen.append((self.command, self.path))
                    fault = next(
                        (f for f in front.faults if f.times and f.method == self.command and f.part in self.path), None
                    )
                    if fault:
                        fault.times -= 1
                if fault and fault.status:
                    self.answer(fault.status, {"Content-Type": "application/xml"}, fault.body)
                    return
                if front.before(self.command, self.path) is False:
                    self.close_connection = True
                    return
                connection = http.client.HTTPConnection(host, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers))
                found = connection.getresponse()
                data = found.read()
                headers = {name: value for name, value in found.getheaders() if name.lower() not in HOP}
                length = found.getheader("Content-Length") if self.command == "HEAD" else None
                self.answer(found.status, headers, data, length, cut=fault is not None)
                connection.close()

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

            def answer(
                self, status: int, headers: dict[str, str], data: bytes, length: str | None = None, cut: bool = False
            ) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[: len(data) // 2] if cut else data)
                if cut:
                    self.wfile.flush()
                    self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
