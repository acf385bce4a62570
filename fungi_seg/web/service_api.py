"""The HTTP API of a bank: an image in; its mask, scores, or who voted, out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from fungi_seg import __version__
from fungi_seg.errors import DataError
from fungi_seg.web.answers import (
    PROBLEMS,
    READING_PROBLEMS,
    BankClass,
    BankFacts,
    Explained,
    Health,
    ImageShare,
    LabelRuns,
    Ready,
    Voter,
)
from fungi_seg.web.faults import Unready, http_error
from fungi_seg.web.guard import STRANGER
from fungi_seg.web.service import Service

if TYPE_CHECKING:
    from fungi_seg.segmentation import Explanation, Segmentation, Segmenter

IN_MEMORY = 1 << 20  # bytes of a body; more of them go to a file
MOST_SCORES = 1 << 26  # numbers in an answer
MOST_RUNS = 1 << 22
LONGEST_HEADER = 4096
UNKNOWN = -1
PNG, NPY, JSON, MULTIPART = "image/png", "application/x-npy", "application/json", "multipart/form-data"
RAW = "application/octet-stream"
FIELD = "file"
PICTURES = (PNG, "image/jpeg", "image/tiff", "image/webp", RAW)
BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
FORM = {"type": "object", "properties": {FIELD: BINARY}, "required": [FIELD]}
IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "description": "An image as it is, or in a form.",
        "content": {
            **{kind: {"schema": BINARY} for kind in PICTURES},
            MULTIPART: {"schema": FORM},
        },
    }
}
SEGMENTED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": LabelRuns,
        "description": "mask: PNG of class indices (16 bits above 255 classes); rle: its runs; scores: of classes, "
        "[C, H, W] float16 as npy",
        "content": {PNG: {"schema": BINARY}, NPY: {"schema": BINARY}},
    }
}

Output = Literal["mask", "rle", "scores"]
Confidence = Annotated[
    float | None,
    Query(ge=0, le=1, description="Confidence below which pixels get no class; the bank must be fitted."),
]
Pixel = Annotated[int, Query(ge=0, lt=2**31, description="From the image's top left.")]


def service_router(service: Service, page: bool) -> APIRouter:
    """The routes of a served bank; `/` tells the server's health where no page is there."""
    router = APIRouter(tags=["segmentation"])

    @router.get("/health", summary="Whether the server runs", responses=READING_PROBLEMS)
    async def health(request: Request) -> Health:
        return Health(
            status="UP",
            model_class="Segmenter",
            version=__version__,
            ready=service.loaded is not None,
            problem=None if request.scope.get(STRANGER) else service.problem,
        )

    if not page:
        router.add_api_route("/", health, include_in_schema=False)

    @router.get("/ready", summary="Whether a bank is loaded", responses={**READING_PROBLEMS, 503: PROBLEMS[503]})
    async def ready(request: Request) -> Ready:
        try:
            return Ready(ready=True, revision=service.segmenter().bank.revision)
        except Unready as error:
            if request.scope.get(STRANGER):
                raise Unready("no bank is loaded") from error
            raise

    @router.get("/v1/bank", summary="What is served", responses={**READING_PROBLEMS, 503: PROBLEMS[503]})
    async def bank() -> BankFacts:
        return facts_of(service.segmenter())

    @router.post(
        "/v1/segment",
        summary="Segment an image",
        openapi_extra=IMAGE_BODY,
        responses=PROBLEMS | SEGMENTED,
        response_class=Response,
    )
    async def segment(request: Request, output: Output = "mask", unknown: Confidence = None) -> Response:
        async with _sent_image(request) as image:
            return await service.on_image(image, lambda s, file: _told(s.predict(file, unknown), output, s))

    @router.post("/v1/explain", summary="Who votes for a pixel", openapi_extra=IMAGE_BODY, responses=PROBLEMS)
    async def explain(request: Request, x: Pixel, y: Pixel) -> Explained:
        async with _sent_image(request) as image:
            return await service.on_image(image, lambda s, file: _explained(s.explain(file, at=(x, y)), s))

    return router


def facts_of(segmenter: Segmenter) -> BankFacts:
    """What a segmenter's bank is."""
    bank, info = segmenter.bank, segmenter.bank.info
    named = zip(info.classes, info.palette, bank.class_rows(), strict=True)
    settings = {
        "backbone": {"name": info.backbone.name, "device": str(segmenter.features.backbone.device)},
        "features": asdict(info.features),
        "input": asdict(info.input),
        "decoder": asdict(segmenter.decoder),
    }
    return BankFacts(
        name=bank.path.name,
        revision=bank.revision,
        seal=bank.manifest.seal,
        created=info.created,
        rows=len(bank),
        images=len(info.sources),
        classes=[
            BankClass(index=i, name=name, colour="#{:02x}{:02x}{:02x}".format(*colour), rows=int(rows))
            for i, (name, colour, rows) in enumerate(named)
        ],
        fitted=bank.manifest.decoder is not None,
        calibrated=segmenter.calibration is not None,
        settings=settings,
    )


def runs_of(mask: np.ndarray, void: int) -> list[int]:
    """A mask `[H, W]` as value, count, value, count, … row by row; −1 for unknown.

    Raises:
        DataError: more than `MOST_RUNS` of them.
    """
    flat = mask.ravel()
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    if len(starts) > MOST_RUNS:
        raise DataError(f"the mask has {len(starts)} runs, and at most {MOST_RUNS} are sent; ask for output=mask")
    values = flat[starts].astype(np.int64)
    values[values == void] = UNKNOWN
    return np.stack([values, np.diff(starts, append=flat.size)], axis=1).ravel().tolist()


def _told(found: Segmentation, output: str, segmenter: Segmenter) -> Response:
    """A segmentation as what was asked for."""
    revision = segmenter.bank.revision
    height, width = found.mask.shape
    headers = {"x-fungi-seg-revision": str(revision), "x-fungi-seg-unknown": str(found.void)}
    named = json.dumps(found.classes)
    if len(named) <= LONGEST_HEADER:  # GET /v1/bank tells them too
        headers["x-fungi-seg-classes"] = named
    if output == "rle":
        runs = runs_of(found.mask, found.void)
        told = LabelRuns(width=width, height=height, classes=list(found.classes), runs=runs, revision=revision)
        return Response(told.model_dump_json(), media_type=JSON, headers=headers)
    file = BytesIO()
    if output == "scores":
        if len(found.classes) * height * width > MOST_SCORES:
            raise DataError(
                f"the scores of {len(found.classes)} classes at {height}×{width} pixels (height×width) are more than "
                f"{MOST_SCORES} numbers; send a smaller image, or ask for output=mask"
            )
        np.save(file, found.scores.astype(np.float16), allow_pickle=False)
        return Response(file.getvalue(), media_type=NPY, headers=headers)
    Image.fromarray(found.mask).save(file, "PNG")
    return Response(file.getvalue(), media_type=PNG, headers=headers)


def _explained(found: Explanation, segmenter: Segmenter) -> Explained:
    x, y = found.at or (0, 0)
    voters = [
        Voter(
            row=n.row,
            image=n.source,
            box=n.box,
            similarity=n.similarity,
            weight=n.weight,
            classes=found.named(n.labels),
        )
        for n in found.neighbours
    ]
    return Explained(
        x=x,
        y=y,
        **{"class": found.classes[found.predicted]},
        score=found.score,
        scores=found.named(found.scores),
        neighbours=voters,
        images=[ImageShare(image=s.source, share=s.share) for s in found.sources],
        revision=segmenter.bank.revision,
    )


@asynccontextmanager
async def _sent_image(request: Request) -> AsyncIterator[BinaryIO]:
    """The image of a request, as a file: its body, or the file of a form.

    Raises:
        HTTPException: neither, or nothing in it.
    """
    kind = request.headers.get("content-type", RAW).partition(";")[0].strip().lower()
    if kind == MULTIPART:
        async with request.form(max_files=1, max_fields=10) as form:
            file = form.get(FIELD)
            if not isinstance(file, UploadFile) or not file.size:
                raise http_error(422, f"the form holds no image; send it as the file {FIELD!r}")
            yield file.file
        return
    if kind != RAW and not kind.startswith("image/"):
        raise http_error(415, f"the body is {kind!r:.100}; send an image as image/png (or its own), or {MULTIPART}")
    with SpooledTemporaryFile(IN_MEMORY) as spool:
        async for part in request.stream():
            if spool.tell() + len(part) > IN_MEMORY:  # it goes, or lies, on disk
                await run_in_threadpool(spool.write, part)
            else:
                spool.write(part)
        if not spool.tell():
            raise http_error(422, "no image was sent")
        spool.seek(0)
        yield spool  # type: ignore[misc]
