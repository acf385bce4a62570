"""HTML pages to look at: one file each, with all its pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, Template
from PIL import Image


@dataclass(frozen=True)
class Table:
    """A table of plain text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A picture and the lines of plain text beneath it."""

    picture: Image.Image
    lines: Sequence[str]

    @property
    def source(self) -> str:
        """The picture as a `data:` address, JPEG."""
        buffer = io.BytesIO()
        self.picture.save(buffer, "JPEG", quality=88)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Section:
    """Pictures side by side under a heading and a caption; beneath them, smaller ones."""

    name: str
    caption: str
    views: Sequence[Figure]
    votes: Sequence[Figure] = ()


def html_page(title: str, text: Sequence[str], tables: Sequence[Table], sections: Sequence[Section]) -> str:
    """An HTML file: a heading, paragraphs of plain text, tables, then sections of pictures."""
    return _template().render(title=title, text=text, tables=tables, sections=sections)


@cache
def _template() -> Template:
    environment = Environment(loader=PackageLoader("fungi_seg.images"), autoescape=True, trim_blocks=True)
    return environment.get_template("page.html")
