"""The page of a folder of results in a browser."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from test_pages import shown, tab  # noqa: F401
from trees import scene

from fungi_seg import MemoryBank, Segmenter
from fungi_seg.results import ResultsConfig, segment_to_folder
from fungi_seg.results.page import write_page
from fungi_seg.results.records import BINS, ImageRecord
from fungi_seg.segmentation import ObjectConfig

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
STRANGE = "50 % #1? ü"


@pytest.fixture(scope="module")
def out(bank: MemoryBank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, images = tmp_path_factory.mktemp("results"), {}
    for number, name in enumerate(("plain", STRANGE, "a/b", "<b>bold</b>")):
        path = folder / f"{number}.png"
        Image.fromarray(scene(300 + number)[0]).save(path)
        images[name] = path
    segment_to_folder(Segmenter(bank), images, folder / "out", ResultsConfig(objects=ObjectConfig()))
    for path in images.values():
        path.unlink()
    return folder / "out"


def names(tab: Page) -> list[str]:  # noqa: F811
    return tab.locator(".card b").all_text_contents()


def test_images_the_most_doubtful_first(tab: Page, out: Path) -> None:  # noqa: F811
    page = shown(tab, out / "index.html")
    sure = [float(text.split("score ")[1].split()[0].rstrip(",")) for text in page.locator(".card").all_inner_texts()]
    assert sure == sorted(sure)
    assert sorted(names(page)) == sorted(("plain", STRANGE, "a/b", "<b>bold</b>"))
    for text in page.locator(".card").all_text_contents():
        assert re.search(r"[^\s]\u00a0\d+\u00a0%", text), "a class and its share stay on one line"
    pictures = page.locator(".card img")
    for i in range(pictures.count()):
        pictures.nth(i).scroll_into_view_if_needed()
    page.wait_for_function("[...document.querySelectorAll('.card img')].every(i => i.complete && i.naturalWidth > 0)")


def test_order_choice_and_search(tab: Page, out: Path) -> None:  # noqa: F811
    page = shown(tab, out / "index.html")
    page.select_option("#order", "by name")
    assert names(page) == ["<b>bold</b>", STRANGE, "a/b", "plain"]
    page.fill("#find", "PLA")
    assert names(page) == ["plain"]
    page.fill("#find", "nothing")
    assert names(page) == []
    page.fill("#find", "")
    page.select_option("#with", "1")
    assert len(names(page)) == sum("red" in text for text in page.locator(".card").all_inner_texts()) > 0


def test_an_image_enlarged(tab: Page, out: Path) -> None:  # noqa: F811
    page = shown(tab, out / "index.html")
    page.select_option("#order", "by name")
    title = names(page).index(STRANGE)
    page.locator(".card button").nth(title).click()
    dialog = page.locator("#large")
    assert STRANGE in dialog.inner_text()
    page.wait_for_function("[...document.querySelectorAll('#large img')].every(i => i.complete && i.naturalWidth > 0)")
    assert dialog.locator(".pair img").count() == 2
    assert dialog.locator(".voters figure").count() == 3
    links = dialog.locator("a").evaluate_all("all => all.map(a => decodeURIComponent(new URL(a.href).pathname))")
    assert {Path(link) for link in links} == {
        out / f"{kind}/{STRANGE}.{end}"
        for kind, end in (
            ("masks", "png"), ("overlays", "jpg"), ("labels", "tif"), ("geojson", "geojson"), ("rois", "zip"),
        )
    }  # fmt: skip
    assert "fungi-seg explain" in dialog.inner_text()
    before = dialog.locator("header b").inner_text()
    page.keyboard.press("ArrowRight")
    assert dialog.locator("header b").inner_text() != before
    page.keyboard.press("ArrowLeft")
    assert dialog.locator("header b").inner_text() == before
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_many_images_come_in_pages(tab: Page, tmp_path: Path) -> None:  # noqa: F811
    records = [
        ImageRecord(
            f"image {i:04}", "x.png", "", 10, 10, ((0, 60), (1, 40)), 0, i / 1000, True, (0,) * (BINS - 1) + (100,),
            (("bank image", 0.5),), 0.1, (),
        )
        for i in range(1000)
    ]  # fmt: skip
    palette = np.array([[0, 0, 0], [230, 120, 0]], np.uint8)
    page = shown(tab, write_page(tmp_path, records, ("background", "nucleus"), palette, "bank", {}, ["a remark"]))
    assert page.locator(".card").count() == 48
    assert names(page)[0] == "image 0000"
    assert "page 1 of 21" in page.locator("#where").inner_text()
    for _ in range(20):
        page.click("#on")
    assert page.locator("#on").is_disabled()
    assert names(page)[-1] == "image 0999"
    assert page.locator(".remark").first.inner_text() == "a remark"
    assert "40.0 %" in page.locator("#classes").inner_text()


def test_remarks_keep_their_lines_and_commands_fit_a_shell(tab: Page, tmp_path: Path) -> None:  # noqa: F811
    file, bank_path = "it's $HOME/a b.png", "my 'best' bank"
    record = ImageRecord("a", file, "", 10, 10, ((0, 100),), 0, 0.5, True, (100,) * BINS, (), 0.1)
    palette = np.zeros((1, 3), np.uint8)
    page = shown(tab, write_page(tmp_path, [record], ("background",), palette, bank_path, {}, ["2 skipped:\n  a\n  b"]))
    assert page.locator(".remark").first.inner_text().splitlines()[0] == "2 skipped:"
    assert len(page.locator(".remark").first.inner_text().splitlines()) == 3
    page.locator(".card button").click()
    command = page.locator("#large code").inner_text()
    assert shlex.split(command)[:5] == ["fungi-seg", "explain", file, "--bank", bank_path]
