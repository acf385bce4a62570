"""A backend for Label Studio: it asks for tasks' masks, and gets brushed regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from fungi_seg.datasets import brush_runs
from fungi_seg.errors import DataError, listing
from fungi_seg.web.answers import PROBLEMS
from fungi_seg.web.service import Service
from fungi_seg.web.task_images import TaskImages

if TYPE_CHECKING:
    from fungi_seg.segmentation import Segmenter

BRUSH, IMAGE, LABEL = "BrushLabels", "Image", "Label"
LONGEST_CONFIG = 1 << 20

Config = Annotated[str, Field(max_length=LONGEST_CONFIG, description="Of the project, in XML.")]


class Task(BaseModel):
    """A task of Label Studio."""

    id: int | str | None = None
    data: dict[str, Any]


class Predict(BaseModel):
    """Which tasks to predict; what else Label Studio sends isn't needed."""

    tasks: list[Task]
    label_config: Config


class Setup(BaseModel):
    """A project that the backend is connected to."""

    label_schema: Config = Field(alias="schema")


class Brushed(BaseModel):
    """What was brushed: bytes of Label Studio's run lengths."""

    format: str = Field(examples=["rle"])
    rle: list[int]
    brushlabels: list[str]


class Region(BaseModel):
    """All pixels of one class."""

    id: str
    from_name: str
    to_name: str
    type: str = Field(examples=["brushlabels"])
    original_width: int
    original_height: int
    image_rotation: int
    value: Brushed
    score: float = Field(description="Mean score of the class in its region, 0..1.")


class Prediction(BaseModel):
    """What was found in one task."""

    model_version: str
    score: float = Field(description="Mean score of the classes found, 0..1.")
    result: list[Region]


class Predictions(BaseModel):
    """What was found in each task, in their order."""

    results: list[Prediction]
    model_version: str


class Version(BaseModel):
    """What predictions are made with."""

    model_version: str


@dataclass(frozen=True)
class Labelling:
    """Where a project wants regions.

    Attributes:
        from_name: of the control that brushes.
        to_name: of the image that it brushes on.
        key: where a task has the address of the image.
        labels: its label by the class of the bank; several labels, if they mean it, are the first one.
    """

    from_name: str
    to_name: str
    key: str
    labels: dict[int, str]


def label_studio_router(service: Service, images: TaskImages) -> APIRouter:
    """The routes that Label Studio asks; with `/health`, which serves others too."""
    router = APIRouter(tags=["Label Studio"])

    @router.post("/setup", summary="Connect a project", responses=PROBLEMS)
    async def setup(asked: Setup) -> Version:
        segmenter = service.segmenter()
        labelling_of(asked.label_schema, segmenter.bank.info.classes)
        return Version(model_version=version_of(segmenter))

    @router.post("/predict", summary="Predict tasks", responses=PROBLEMS)
    async def predict(asked: Predict) -> Predictions:
        segmenter = service.segmenter()
        labelling_of(asked.label_config, segmenter.bank.info.classes)
        found = []
        for number, task in enumerate(asked.tasks):
            name = f"task {number if task.id is None else task.id}"
            try:
                found.append(await predicted(service, images, asked.label_config, task))
            except DataError as error:
                raise DataError(f"{name}: {error}") from error
        return Predictions(results=found, model_version=version_of(segmenter))

    return router


async def predicted(service: Service, images: TaskImages, config: str, task: Task) -> Prediction:
    """What is found in the image of a task.

    Raises:
        DataError: the task names no image that can be used.
    """
    key = labelling_of(config, service.segmenter().bank.info.classes).key
    address = task.data.get(key)
    if not isinstance(address, str):
        raise DataError(f"its data has no address of an image under {key!r}")

    def work(segmenter: Segmenter, image: BinaryIO) -> Prediction:
        return _prediction(segmenter, image, labelling_of(config, segmenter.bank.info.classes))

    file = await run_in_threadpool(images.open, address)
    with file:
        return await service.on_image(file, work)


def version_of(segmenter: Segmenter) -> str:
    """What Label Studio calls the model."""
    return f"fungi-seg {segmenter.bank.path.name} revision {segmenter.bank.revision}"


def labelling_of(config: str, classes: tuple[str, ...]) -> Labelling:
    """Where a project wants regions of a bank's classes.

    Raises:
        DataError: no labelling configuration, none with brushes, or none of its labels is a class.
    """
    root = _parsed(config)
    keys = {one.get("name"): one.get("value", "") for one in root.iter(IMAGE)}
    brushes = list(root.iter(BRUSH))
    if not brushes:
        raise DataError(f"the project's labelling configuration has no <{BRUSH}>; add one whose labels are classes")
    named: list[str] = []
    for brush in brushes:
        to_name, from_name = brush.get("toName", ""), brush.get("name", "")
        key = keys.get(to_name, "")
        labels: dict[int, str] = {}
        for label in brush.iter(LABEL):
            said = label.get("alias") or label.get("value") or ""
            named.append(said)
            for name in (said, label.get("value", "")):
                if name in classes:
                    labels.setdefault(classes.index(name), said)
                    break
        if labels and from_name and key.startswith("$"):
            return Labelling(from_name, to_name, key[1:], labels)
    raise DataError(
        f"no label of the project's <{BRUSH}> is a class of the bank, on an <{IMAGE}> of one value; labels:\n"
        f"{listing(named)}\nclasses:\n{listing(classes)}"
    )


def _parsed(config: str) -> Element:
    """The configuration's XML; one that declares a type could grow without end, and none needs it."""
    parser = XMLParser(target=_Plain())
    try:
        parser.feed(config)
        found: Element = parser.close()
    except (ParseError, ValueError) as error:
        raise DataError(f"the project's labelling configuration isn't XML ({error})") from error
    return found


class _Plain(TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Refuse what XML may declare."""
        raise DataError("the project's labelling configuration declares a document type; leave <!DOCTYPE …> out")


def _prediction(segmenter: Segmenter, image: BinaryIO, labelling: Labelling) -> Prediction:
    from fungi_seg.segmentation import LEVELS  # which imports torch

    found = segmenter.predict(image)
    height, width = found.mask.shape
    regions = []
    for index, label in labelling.labels.items():
        inside = found.mask == index
        if inside.any():
            regions.append(
                Region(
                    id=f"{labelling.from_name}-{index}",
                    from_name=labelling.from_name,
                    to_name=labelling.to_name,
                    type=BRUSH.lower(),
                    original_width=width,
                    original_height=height,
                    image_rotation=0,
                    value=Brushed(format="rle", rle=list(brush_runs(inside)), brushlabels=[label]),
                    score=float(found.levels[inside].mean() / LEVELS),
                )
            )
    score = float(np.mean(found.levels) / LEVELS)
    return Prediction(model_version=version_of(segmenter), score=score, result=regions)
