"""What is counted of the server's work, in the text format of Prometheus."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from fungi_seg.web.answers import READING_PROBLEMS
from fungi_seg.web.guard import App, Message, Receive, Scope, Send
from fungi_seg.web.service import Service

OTHER = "other"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """Counters of one app; a registry of its own, so that apps don't count each other's requests.

    Args:
        service: what is served.
    """

    def __init__(self, service: Service):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        labels = ("method", "route")
        self.requests = Counter("fungi_seg_requests", "Requests answered", (*labels, "status"), registry=self.registry)
        self.seconds = Histogram(
            "fungi_seg_request_seconds", "Time to answer", labels, registry=self.registry, buckets=BUCKETS
        )
        for name, text, value in (
            ("waiting", "Requests that wait for the model", lambda: service.turns.waiting),
            ("ready", "Whether a bank is loaded", lambda: service.loaded is not None),
            ("bank_revision", "Of the bank that is served", lambda: _revision(service)),
        ):
            Gauge(f"fungi_seg_{name}", text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of them, as they are now."""
        return generate_latest(self.registry)


class Counted:
    """ASGI middleware that counts requests by route, method and status.

    Args:
        app: what answers.
        metrics: where they are counted.
    """

    def __init__(self, app: App, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            method = scope["method"] if scope["method"] in METHODS else OTHER
            route = _route(scope)
            self.metrics.requests.labels(method, route, str(status)).inc()
            self.metrics.seconds.labels(method, route).observe(time.monotonic() - start)


def metrics_router(metrics: Metrics) -> APIRouter:
    """The route that tells them."""
    router = APIRouter(tags=["operation"])
    answers: dict[int | str, dict[str, Any]] = {
        **READING_PROBLEMS,
        200: {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}},
    }

    @router.get("/metrics", summary="Metrics for Prometheus", responses=answers, response_class=Response)
    async def tell() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def _route(scope: Scope) -> str:
    """The pattern that a path matched; what clients write is no label, or there were as many as they like."""
    path = getattr(scope.get("route"), "path", None)
    if isinstance(path, str):
        return path
    return "/static" if scope["path"].startswith("/static/") else OTHER


def _revision(service: Service) -> int:
    return service.loaded.bank.revision if service.loaded else 0
