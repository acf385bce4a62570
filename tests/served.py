"""A server in this process, and clients of it."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import numpy as np
from fastapi import FastAPI
from PIL import Image
from trees import scene

from fungi_seg import Segmenter
from fungi_seg.web import LimitConfig, ServeConfig, Service, create_app, listening
from fungi_seg.web.running import server_of

HERE = "http://127.0.0.1:8765"
SOON = 30  # seconds after which a test that hangs fails


def png(seed: int = 3, **options: Any) -> bytes:
    """A photo as the bytes of a file."""
    return encoded(scene(seed, **options)[0])


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def service_of(bank: Path | None, limits: LimitConfig = LimitConfig(), **options: Any) -> Service:
    """A service whose bank is loaded."""
    service = Service(bank, limits, **options)
    service.start()
    service.wait()
    return service


def app_of(bank: Path | None, config: ServeConfig = ServeConfig(), **options: Any) -> FastAPI:
    return create_app(config, service_of(bank, config.limits), **options)


def client_of(app: FastAPI, **options: Any) -> httpx.AsyncClient:
    """A client that hands requests to the app as they are, and raises nothing that a server wouldn't."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=HERE, **options)


async def ask(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    async with client_of(app) as client:
        return await client.request(method, path, **options)


@contextmanager
def running(app: FastAPI, config: ServeConfig = ServeConfig(port=0)) -> Iterator[tuple[str, int]]:
    """The app behind a socket of this machine: its host and port."""
    started = threading.Event()
    with listening(config) as sock:
        server = server_of(app, started.set)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            assert started.wait(SOON)
            yield sock.getsockname()[:2]
        finally:
            server.should_exit = True
            thread.join(SOON)
            assert not thread.is_alive()


class Held:
    """A segmenter that works only while it is let; what it gives is another's."""

    def __init__(self, real: Segmenter):
        self.real, self.bank, self.features, self.decoder = real, real.bank, real.features, real.decoder
        self.calibration = real.calibration
        self.entered, self.gate = threading.Event(), threading.Event()

    def predict(self, image: BinaryIO, unknown: float | None = None) -> Any:
        """Wait, and segment."""
        self.entered.set()
        assert self.gate.wait(SOON)
        return self.real.predict(image, unknown)
