"""What the page asks for, over HTTP: each route is one call of a `Workspace`."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from fungi_seg.annotating import ExportConfig, Workspace
from fungi_seg.web.answers import PAGE_PROBLEMS, file_answer

PREFIX = "/ui/api"
JPEG, PNG, ZIP, TAR = "image/jpeg", "image/png", "application/zip", "application/x-tar"
BOX = r"^-?\d{1,9}(\.\d{1,9})?(,-?\d{1,9}(\.\d{1,9})?){3}$"  # left,top,right,bottom
KEPT = {"cache-control": "private, max-age=31536000, immutable"}  # under an address that changes with what it shows
LONGEST_NAME, MOST_PAIRS = 200, 1 << 26

Tab = Annotated[str, Field(max_length=64)]
Number = Annotated[int, Field(ge=0, lt=2**31)]
Whole = Annotated[int, Field(ge=-(2**31), lt=2**31)]


class ClassName(BaseModel):
    """A class."""

    name: str = Field(max_length=LONGEST_NAME)
    colour: str = Field(max_length=7)


class Classes(BaseModel):
    """All classes in order."""

    classes: list[ClassName] = Field(max_length=255)


class Version(BaseModel):
    """Which state of an image's annotation is meant."""

    tab: Tab
    version: int = Field(ge=0, lt=2**32)


class Edit(Version):
    """Other labels for a rectangle."""

    box: tuple[Whole, Whole, Whole, Whole]
    runs: list[Whole] = Field(max_length=MOST_PAIRS)


class Hold(BaseModel):
    """A tab has an image open."""

    tab: Tab
    release: bool = False


class Looked(BaseModel):
    """Whether somebody looked at an image."""

    looked: bool = True


class Pixel(BaseModel):
    """A pixel."""

    x: Whole
    y: Whole


class Wanted(BaseModel):
    """What an export writes; see `ExportConfig`."""

    masks: Literal["png", "tiff", "palette"] = "png"
    objects: bool = False
    coco: bool = False
    confidence: bool = False
    overlays: Literal["contour", "fill", "side_by_side", "none"] = "none"


def page_router(workspace: Workspace) -> APIRouter:
    """The routes that the page uses."""
    router = APIRouter(prefix=PREFIX, tags=["page"], responses=PAGE_PROBLEMS)
    _images(router, workspace)
    _annotations(router, workspace)
    _work(router, workspace)
    return router


def _images(router: APIRouter, workspace: Workspace) -> None:
    @router.get("/state")
    def state() -> dict[str, Any]:
        return workspace.state()

    @router.put("/classes")
    def classes(body: Classes) -> dict[str, Any]:
        return workspace.set_classes([one.model_dump() for one in body.classes])

    @router.get("/images")
    def images(
        sort: Literal["doubt", "name"] = "doubt",
        filter: Literal["all", "unlooked", "annotated", "open"] = "all",
        class_index: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
        offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
        limit: Annotated[int, Query(ge=0, le=1000)] = 60,
    ) -> dict[str, Any]:
        return workspace.list_images(sort, filter, class_index, offset, limit)

    @router.get("/images/{number}")
    def image(number: int, tab: Annotated[str, Query(max_length=64)] = "") -> dict[str, Any]:
        return workspace.image(number, tab)

    @router.get("/images/{number}/thumbnail", response_class=Response, responses=file_answer(JPEG))
    def thumbnail(number: int, stamp: str = "") -> Response:
        return Response(workspace.thumbnail(number), media_type=JPEG, headers=KEPT if stamp else {})

    @router.get("/images/{number}/picture", response_class=Response, responses=file_answer(JPEG, PNG))
    def picture(number: int, stretch: bool = False) -> Response:
        data, kind = workspace.picture(number, stretch)
        return Response(data, media_type=kind, headers={"cache-control": "no-cache"})

    @router.get("/crops", response_class=Response, responses=file_answer(JPEG))
    def crop(name: Annotated[str, Query(max_length=4096)], box: Annotated[str, Query(pattern=BOX)]) -> Response:
        left, top, right, bottom = (float(value) for value in box.split(","))
        return Response(workspace.crop(name, (left, top, right, bottom)), media_type=JPEG)

    @router.get("/next")
    def next_image() -> dict[str, Any]:
        return workspace.next_image()


def _annotations(router: APIRouter, workspace: Workspace) -> None:
    @router.get("/images/{number}/prediction")
    def prediction(number: int) -> dict[str, Any]:
        return workspace.prediction(number)

    @router.post("/images/{number}/edits")
    def edit(number: int, body: Edit) -> dict[str, Any]:
        return workspace.edit(number, body.version, body.box, body.runs)

    @router.post("/images/{number}/accept")
    def accept(number: int, body: Version) -> dict[str, Any]:
        return workspace.accept(number, body.version)

    @router.post("/images/{number}/save")
    def save(number: int, body: Version) -> dict[str, Any]:
        return workspace.save(number, body.version)

    @router.post("/images/{number}/looked")
    def looked(number: int, body: Looked) -> dict[str, Any]:
        return workspace.look(number, body.looked)

    @router.post("/images/{number}/hold")
    def hold(number: int, body: Hold) -> dict[str, Any]:
        return workspace.hold(number, body.tab, body.release)

    @router.post("/images/{number}/explain")
    def explain(number: int, body: Pixel) -> dict[str, Any]:
        found = workspace.explain(number, body.x, body.y)
        return {**found, "voters": [with_crop(voter) for voter in found["voters"]]}


def _work(router: APIRouter, workspace: Workspace) -> None:
    @router.post("/jobs/{kind}")
    def start(kind: Literal["fit", "audit", "export"], body: Wanted | None = None) -> dict[str, Any]:
        return workspace.start_job(kind, ExportConfig(**(body or Wanted()).model_dump()))

    @router.delete("/jobs/{kind}")
    def cancel(kind: str) -> dict[str, Any]:
        return workspace.cancel_job(kind)

    @router.get("/doubtful")
    def doubtful() -> dict[str, Any]:
        found = workspace.doubtful()
        return {**found, "annotations": [with_crop(one) for one in found["annotations"]]}

    @router.get("/files")
    def files() -> dict[str, Any]:
        found = [{**one, "url": f"{PREFIX}/files/{one['name']}"} for one in workspace.exported()]
        return {"files": found, "zip": f"{PREFIX}/files.zip" if found else None}

    @router.get("/files.zip", response_class=Response, responses=file_answer(ZIP))
    def zipped() -> Response:
        return _download(workspace.zipped(), ZIP, "results.zip")

    @router.get("/files/{path:path}", response_class=Response, responses=file_answer("*/*"))
    def file(path: str) -> Response:
        found = workspace.exported_file(path)
        return FileResponse(found, filename=found.name)

    @router.get("/bank.tar", response_class=Response, responses=file_answer(TAR))
    def bank() -> Response:
        return _download(workspace.bank_file(), TAR, "bank.tar")


def _download(parts: Any, kind: str, name: str) -> Response:
    return StreamingResponse(parts, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})


def with_crop(one: dict[str, Any]) -> dict[str, Any]:
    """What is told of a patch, with the address of its picture."""
    asked = {"name": one["name"], "box": ",".join(f"{value:g}" for value in one["box"])}
    return {**one, "crop": f"{PREFIX}/crops?{urlencode(asked)}"}
