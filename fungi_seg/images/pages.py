"""HTML pages to look at: one file each, with all its pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, Template
from PIL import Image

PAGE_SIDE = 640  # of pictures, in pixels
FIRST_VOTES = 6

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Table:
    """A table of plain text, under a heading and paragraphs if it has any."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    name: str = ""
    text: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """A picture and the lines of plain text beneath it."""

    picture: Image.Image
    lines: Sequence[str]

    @property
    def source(self) -> str:
        """The picture as a `data:` address, JPEG whose colours are as sharp as its brightness."""
        buffer = io.BytesIO()
        self.picture.save(buffer, "JPEG", quality=85, subsampling=0)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Section:
    """Pictures side by side under a heading and a caption; beneath them smaller ones, of which the first six are open.

    Attributes:
        name, caption: plain text.
        views: pictures; on a narrow page two stand side by side.
        votes: smaller ones.
        rows: of views on a wide page, filled from the top to the bottom.
    """

    name: str
    caption: str
    views: Sequence[Figure]
    votes: Sequence[Figure] = ()
    rows: int = 1


def html_page(
    title: str,
    text: Sequence[str],
    tables: Sequence[Table],
    sections: Sequence[Section],
    legend: Sequence[tuple[str, Colour]] = (),
) -> str:
    """An HTML file: a heading, paragraphs of plain text, tables, what colours mean, then sections of pictures."""
    return _template().render(
        title=title, text=text, tables=tables, sections=sections, legend=legend, first=FIRST_VOTES
    )


@cache
def _template() -> Template:
    environment = Environment(loader=PackageLoader("fungi_seg.images"), autoescape=True, trim_blocks=True)
    return environment.get_template("page.html")
