"""All parts of the server put together."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from fungi_seg.annotating import Conflict
from fungi_seg.errors import FungiSegError, MissingExtra

try:
    import python_multipart  # noqa: F401
    from fastapi import APIRouter, FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, JSONResponse, Response
    from fastapi.staticfiles import StaticFiles
    from starlette.exceptions import HTTPException

    from fungi_seg.web.label_studio import label_studio_router
    from fungi_seg.web.metrics import Counted, Metrics, metrics_router
    from fungi_seg.web.service_api import service_router
except ImportError as error:
    if isinstance(error, MissingExtra):
        raise
    raise MissingExtra("web", error) from error

from fungi_seg import __version__
from fungi_seg.web.faults import ComeAgain, sentence, status_of
from fungi_seg.web.guard import Guard
from fungi_seg.web.limits import BodyLimit
from fungi_seg.web.service import Service
from fungi_seg.web.settings import ServeConfig
from fungi_seg.web.task_images import TaskImages

STATIC = Path(__file__).parent / "static"
ASK_AGAIN = {"cache-control": "no-cache"}
ABOUT = "Images in, masks out, from a memory bank of annotated images; and who voted for what."

log = logging.getLogger(__name__)


class Working(Protocol):
    """What begins to work with the server, and ends with it."""

    def start(self) -> None:
        """Begin, and return at once."""

    def close(self) -> None:
        """Keep what is to be kept, and end."""


def create_app(
    config: ServeConfig,
    service: Service,
    workspace: Working | None = None,
    page_router: APIRouter | None = None,
    images: Path | None = None,
) -> FastAPI:
    """The server as an ASGI app.

    Args:
        config: where it will listen, and what requests may take.
        service: the bank that is served; it begins to load when the app starts.
        workspace: begins to load when the app starts, and is closed when it ends.
        page_router: what the page asks; with it, the page is served too.
        images: folder of the images that Label Studio's tasks may name.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        if workspace is not None:
            workspace.start()
        yield
        service.close()
        if workspace is not None:
            workspace.close()

    app = FastAPI(
        title="fungi-seg", version=__version__, description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    _tell_errors(app)
    metrics = Metrics(service)
    app.include_router(service_router(service, page_router is not None))
    app.include_router(label_studio_router(service, TaskImages(images, config)))
    app.include_router(metrics_router(metrics))
    if page_router is not None:
        app.include_router(page_router)
        _serve_page(app)
    for layer, given in ((BodyLimit, config.limits), (Guard, config), (Counted, metrics)):  # the last one is outermost
        app.add_middleware(layer, given)  # type: ignore[arg-type]
    return app


def _serve_page(app: FastAPI) -> None:
    """The page's own files; browsers ask each time whether they changed."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(STATIC / "index.html", headers=ASK_AGAIN)

    app.mount("/static", _PageFiles(directory=STATIC), name="static")


class _PageFiles(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """With word to ask each time whether the file changed."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(ASK_AGAIN)
        return response


def _tell_errors(app: FastAPI) -> None:
    """Whatever goes wrong is told as JSON with one sentence."""

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, FungiSegError)
        again = {"retry-after": str(error.seconds)} if isinstance(error, ComeAgain) else None
        told = {"detail": str(error)} | ({"reason": error.reason} if isinstance(error, Conflict) else {})
        return JSONResponse(told, status_of(error), again)

    async def unread(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return JSONResponse({"detail": sentence(error.errors())}, 422)

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"detail": str(error.detail)}, error.status_code, error.headers)

    app.add_exception_handler(FungiSegError, refused)
    app.add_exception_handler(RequestValidationError, unread)
    app.add_exception_handler(HTTPException, http)
