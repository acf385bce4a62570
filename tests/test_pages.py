"""Pages as a browser shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import HALF, TINY
from PIL import Image
from trees import folder_tree, scene

from fungi_seg import BackboneConfig, DataConfig, IndexConfig, InputConfig, MemoryBank, Segmenter, SourceImages
from fungi_seg.audit import audit_bank, write_audit
from fungi_seg.commands import demo
from fungi_seg.images import Figure, Section, Table, html_page
from fungi_seg.segmentation import explanation_sheet

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
    assert len(pictures(shown(tab, file))) == 2


def pictures(tab: Page) -> list[dict[str, float]]:
    """Places of the pictures that can be seen, all of which are there."""
    found = tab.locator("img")
    assert found.evaluate_all("all => all.every(i => i.complete && i.naturalWidth > 0)")
    seen = "all => all.filter(i => i.checkVisibility()).map(i => i.getBoundingClientRect().toJSON())"
    return list(found.evaluate_all(seen))


@pytest.fixture(scope="module")
def demo_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(demo, "NUCLEI", folder_tree(out / "few", classes=2))
        backbone = BackboneConfig("tiny", "random", TINY, HALF, HALF, "cpu", "float32")
        return demo.run_demo(out / "out", 3, backbone, InputConfig(64)).files[0]


def test_demo(tab: Page, demo_page: Path) -> None:
    """Six views of each image, of one size, in rows that fill the page; six voters of each, the others on demand."""
    boxes = pictures(shown(tab, demo_page))
    assert len(boxes) == 2 * (6 + 6)
    views, voters = boxes[:6], boxes[6:12]
    across = len({round(box["left"]) for box in views})
    assert across == (3 if tab.viewport_size == {"width": 1400, "height": 900} else 2)
    assert len({(round(box["width"]), round(box["height"])) for box in views}) == 1
    assert min(box["width"] for box in views) > 200
    assert min(box["width"] for box in voters) > 100
    plain, errors = views[2:4]
    assert round(plain["left"] - errors["left"]) == 0 or across == 2  # beneath it on a wide page, else beside it
    assert round(plain["top"] - errors["top"]) == 0 or across == 3
    tab.locator("summary").first.click()
    assert len(pictures(tab)) > len(boxes)
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def sources(bank: MemoryBank) -> SourceImages:
    return SourceImages(bank, DataConfig(root=str(bank.path.parent / "data"), split="train"))


@pytest.fixture(scope="module")
def audited(bank: MemoryBank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = audit_bank(bank, index=IndexConfig(device="cpu"))
    return write_audit(found, bank, sources(bank), tmp_path_factory.mktemp("audit"), 3)[0]


def test_audit(tab: Page, audited: Path) -> None:
    """Four views of each image side by side on a wide page, two on a narrow one; each table under a heading."""
    boxes = pictures(shown(tab, audited))
    assert len(boxes) == 3 * 4
    rows = [len({round(box["top"]) for box in boxes[i : i + 4]}) for i in (0, 4, 8)]
    assert rows == [1 if tab.viewport_size == {"width": 1400, "height": 900} else 2] * 3
    assert min(box["width"] for box in boxes) > 200
    assert tab.locator(".wide").evaluate_all("all => all.every(i => i.scrollWidth <= i.clientWidth)")
    headings = tab.locator("h2").all_inner_texts()
    assert headings[:3] == ["Images, the most suspicious first", "Classes", "Images that can go"]


def test_explanation(tab: Page, bank: MemoryBank, tmp_path: Path) -> None:
    """The sheet fits onto a wide screen as it is."""
    found = Segmenter(bank, index=IndexConfig(device="cpu")).explain(scene(3)[0], at=(20, 20))
    explanation_sheet(found, sources(bank)).save(tmp_path / "sheet.png")
    size = tab.goto((tmp_path / "sheet.png").as_uri()) and tab.evaluate("document.images[0].naturalWidth")
    assert 700 < size <= 1400
