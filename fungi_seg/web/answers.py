"""The shapes of what the API answers, for its OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """Why something can't be done."""

    detail: str = Field(description="One sentence.")


class Conflicting(Problem):
    """What stands in the way now."""

    reason: str | None = Field(None, description="`version` where the annotation was changed meanwhile.")


def file_answer(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """What is told of an answer that is a file of one of some kinds."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    return {200: {"description": "The file", "content": content}}


class Health(BaseModel):
    """Whether the server runs; `status` and `model_class` are what Label Studio looks for."""

    status: str = Field(examples=["UP"])
    model_class: str = Field(examples=["Segmenter"])
    version: str = Field(description="Of the package.")
    ready: bool = Field(description="Whether a bank is loaded.")
    problem: str | None = Field(description="Why none is loaded, or why a changed one can't be.")


class Ready(BaseModel):
    """A bank is loaded."""

    ready: bool
    revision: int = Field(description="Of the bank.")


class LabelRuns(BaseModel):
    """A label map, row by row: value, count, value, count, … with −1 for unknown."""

    width: int
    height: int
    classes: list[str]
    runs: list[int]
    revision: int = Field(description="Of the bank.")


class BankClass(BaseModel):
    """A class of the bank."""

    index: int
    name: str
    colour: str = Field(examples=["#ff0000"])
    rows: int = Field(description="Rows that hold it.")


class BankFacts(BaseModel):
    """What is served."""

    name: str = Field(description="Of its folder.")
    revision: int
    seal: str = Field(description="SHA-256 of its manifest.")
    created: str
    rows: int
    images: int
    classes: list[BankClass]
    fitted: bool = Field(description="Whether settings of the vote were fitted on it.")
    calibrated: bool = Field(description="Whether it is known how sure classes are, as `unknown` needs.")
    settings: dict[str, Any] = Field(description="Backbone, features, input and vote.")


class Voter(BaseModel):
    """An annotated patch that votes."""

    row: int
    image: str
    box: tuple[float, float, float, float] = Field(description="Left, top, right, bottom in pixels of its image.")
    similarity: float
    weight: float = Field(description="Its share of the vote.")
    classes: dict[str, float] = Field(description="Shares of classes in it.")


class ImageShare(BaseModel):
    """An annotated image, and its share of the vote."""

    image: str
    share: float


class Explained(BaseModel):
    """Who votes for a pixel."""

    x: int
    y: int
    class_: str = Field(alias="class")
    score: float
    scores: dict[str, float] = Field(description="Of classes, the highest first.")
    neighbours: list[Voter]
    images: list[ImageShare]
    revision: int = Field(description="Of the bank.")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in (
        (400, "The request can't be read"),
        (401, "A token is needed"),
        (403, "Asked by another name, or from a page of another origin"),
        (408, "The body didn't arrive in time"),
        (413, "The body is too large"),
        (415, "The body is neither an image nor a form with one"),
        (422, "The image or a setting can't be used"),
        (429, "Too many requests wait; come again"),
        (500, "The server made a mistake"),
        (503, "No bank is loaded yet, or the answer took too long; come again"),
    )
}
"""What any request may be answered with."""
PAGE_PROBLEMS = PROBLEMS | {
    404: {"model": Problem, "description": "No such image, file or work"},
    409: {"model": Conflicting, "description": "Another tab was faster, or something must be done before"},
}
READING_PROBLEMS: dict[int | str, dict[str, Any]] = {status: PROBLEMS[status] for status in (401, 403, 500)}
