"""Pages as a browser shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from fungi_seg.images import Figure, Section, Table, html_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
WIDTHS = (1400, 600)


@pytest.fixture(params=WIDTHS)
def tab(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": request.param, "height": 900})
    yield opened
    opened.close()


def shown(tab: Page, file: Path) -> Page:
    """The page of a file, which asks for nothing outside of its folder and needs no scrolling to the side."""
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(file.as_uri())
    assert all(url.startswith((file.parent.as_uri(), "data:", "blob:")) for url in asked)
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    return tab


def test_pictures_and_tables(tab: Page, tmp_path: Path) -> None:
    picture = Image.new("RGB", (1200, 300), (0, 90, 200))
    table = Table(("class", *(f"a column {i} of many" for i in range(12))), [("nucleus", *("0.123456",) * 12)])
    file = tmp_path / "index.html"
    section = Section("one", "a caption", [Figure(picture, ["wide"])], [Figure(picture.resize((80, 80)), ["a vote"])])
    file.write_text(html_page("A page", ["Text."], [table], [section]), encoding="utf-8")
    images = shown(tab, file).locator("img")
    assert images.count() == 2
    assert all(images.nth(i).evaluate("i => i.naturalWidth > 0") for i in range(2))
