"""Views of the annotation page, what goes from one to another, and whether all can use them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from page_server import PageServer
from page_tab import NARROW, STRANGE, WIDE, Opener, opened, server  # noqa: F401

pytestmark = pytest.mark.browser


def test_names_are_text(opened: Opener, server: PageServer) -> None:  # noqa: F811
    server.classes = [(STRANGE, "#000000"), ("'; drop table", "#e69f00")]
    server.voters = [voter(0, STRANGE)]
    server.found = [doubtful(2, STRANGE)]
    server.exported = [{"name": STRANGE, "bytes": 10, "url": "/ui/api/files/x"}]
    tab = opened().image(2)
    assert tab.text("main h2") == STRANGE
    assert STRANGE in tab.text(".class-list")
    tab.pressed("v")
    tab.page.mouse.click(*tab.at(20, 20))
    tab.page.wait_for_selector(".voters .voter")
    for where in ("#/folder", "#/doubtful", "#/export"):
        tab.open(where)
        tab.until("text => document.querySelector('main').innerText.includes(text)", arg=STRANGE)
    tab.page.click("#open-classes")
    assert tab.page.locator("dialog input[type=text]").first.input_value() == STRANGE
    assert tab.page.evaluate("window.hacked") is None
    assert tab.page.locator("[onerror]").count() == 0


def voter(number: int | None, name: str) -> dict[str, Any]:
    shares = {"0": 0.1, "1": 0.9}
    return {
        "id": number,
        "name": name,
        "box": [8, 16, 24, 32],
        "weight": 0.4,
        "classes": shares,
        "crop": "/ui/api/crops?x=1",
    }


def doubtful(number: int, name: str) -> dict[str, Any]:
    box = [8, 16, 24, 32]
    return {
        "id": number,
        "name": name,
        "box": box,
        "class": 0,
        "suggested": 1,
        "score": 0.9,
        "crop": "/ui/api/crops?x=1",
    }


def test_who_voted_and_a_click_goes_there(opened: Opener, server: PageServer) -> None:  # noqa: F811
    server.voters = [voter(1, "b/c"), voter(None, "of another folder")]
    tab = opened().image(0)
    tab.pressed("v")
    assert "Click a pixel" in tab.text(".voters-panel")
    tab.page.mouse.click(*tab.at(20, 30))
    tab.page.wait_for_selector(".voters .voter")
    asked = [body for _, path, body in server.asked if path == "images/0/explain"]
    assert asked == [{"x": 20, "y": 30}]
    assert "column 20, row 30" in tab.text(".voters-panel")
    assert "weight 40\u00a0%" in tab.text(".voters .voter >> nth=0")
    assert tab.page.locator(".voters a").count() == 1
    tab.page.click(".voters a")
    tab.until("document.querySelector('h2').textContent === 'b/c'")
    assert tab.page.evaluate("location.hash") == "#/image/1?box=8,16,24,32"
    tab.page.wait_for_selector(".stage[data-ready]")
    box = tab.page.locator(".stage").bounding_box()
    assert box
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.until("/^1[56], 2[34]/.test(document.querySelector('.where').textContent)")


def test_doubtful_annotations(opened: Opener, server: PageServer) -> None:  # noqa: F811
    tab = opened().open("#/doubtful")
    tab.page.get_by_role("button", name="Look for doubtful annotations").click()
    tab.page.wait_for_selector("progress:visible")
    server.found = [doubtful(1, "b/c")]
    server.finish("audit")
    tab.page.wait_for_selector(".doubtful a")
    assert "looks like object" in tab.text(".doubtful a").replace("\n", " ")
    tab.page.click(".doubtful a")
    tab.until("document.querySelector('h2').textContent === 'b/c'")


def test_export(opened: Opener, server: PageServer) -> None:  # noqa: F811
    tab = opened().open("#/export")
    tab.page.select_option("#export-masks", "tiff")
    tab.page.get_by_label("COCO annotations").check()
    tab.page.get_by_role("button", name="Write the files").click()
    tab.page.wait_for_selector("progress:visible")
    sent = [body for method, path, body in server.asked if path == "jobs/export"]
    assert sent == [{"masks": "tiff", "objects": False, "coco": True, "confidence": False, "overlays": "none"}]
    server.exported = [{"name": "a.tif", "bytes": 12345, "url": "/ui/api/files/a.tif"}]
    server.finish("export")
    tab.page.wait_for_selector(".files a")
    assert tab.text(".files li") == "a.tif 12\u00a0kB"
    assert tab.page.get_by_text("All files as one ZIP").get_attribute("href") == "/ui/api/files.zip"


def test_work_can_be_cancelled_and_its_failure_is_told(opened: Opener, server: PageServer) -> None:  # noqa: F811
    tab = opened().open()
    tab.page.get_by_role("button", name="Fit to my annotations").click()
    tab.page.get_by_role("button", name="Cancel: Fit to my annotations").click()
    tab.page.get_by_text("Cancelled.").wait_for()
    tab.page.get_by_role("button", name="Fit to my annotations").click()
    tab.page.wait_for_selector("progress:visible")
    server.finish("fit", "failed", "Two images are needed, there is one.")
    tab.page.get_by_text("Two images are needed, there is one.").wait_for()


def test_order_and_choice_of_images(opened: Opener, server: PageServer) -> None:  # noqa: F811
    server.pictures[1].looked = True
    tab = opened().open()

    def names(wanted: list[str]) -> None:
        script = (
            "wanted => JSON.stringify([...document.querySelectorAll('.card .name')].map(e => e.textContent)) === wanted"
        )
        tab.until(script, arg=json.dumps(wanted, separators=(",", ":")))

    names(["a", "b/c", STRANGE])
    tab.page.select_option("#choose-filter", "unlooked")
    names(["a", STRANGE])
    tab.page.select_option("#choose-filter", "annotated")
    names([])
    tab.page.get_by_text("No image matches this choice.").wait_for()


def test_thousands_of_images(opened: Opener, server: PageServer) -> None:  # noqa: F811
    server.pictures = [type(server.pictures[0])(f"image {i:04}", server.pictures[0].pixels) for i in range(5000)]
    tab = opened().open()
    tab.page.select_option("#choose-sort", "name")
    tab.until("document.querySelector('.card .name')?.textContent === 'image 0000'")
    assert tab.page.locator(".cell").count() < 100
    tab.page.locator(".card").first.focus()
    tab.pressed("End")
    tab.until("document.activeElement.querySelector('.name')?.textContent === 'image 4999'")
    assert tab.page.locator(".cell").count() < 100
    assert sum(path == "images" for _, path, _ in server.asked) < 12


def test_a_new_class(opened: Opener, server: PageServer) -> None:  # noqa: F811
    tab = opened().open()
    tab.page.click("#open-classes")
    tab.page.click("#add-class")
    tab.page.keyboard.type("object")
    tab.pressed("Enter")
    assert "Two classes are called" in tab.text("dialog[open] .problem")
    tab.page.keyboard.type(" of another kind")
    tab.pressed("Enter")
    tab.page.wait_for_selector("dialog", state="hidden")
    assert [name for name, _ in server.classes] == ["background", "object", "object of another kind"]


@pytest.mark.parametrize("width", [1800, WIDE, NARROW, 700])
def test_nothing_serious_for_axe_and_no_scrolling_to_the_side(opened: Opener, server: PageServer, width: int) -> None:  # noqa: F811
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    server.voters, server.found = [voter(1, "b/c"), voter(None, "x")], [doubtful(1, "b/c")]
    server.exported = [{"name": "a.tif", "bytes": 12345, "url": "/ui/api/files/a.tif"}]
    server.saved = 3
    server.pictures[1].status, server.pictures[2].status = "saved", "draft"
    server.pictures[1].labels[:8] = 0
    tab = opened(width)

    def check(what: str) -> None:
        found = [each for each in axe.run(tab.page).response["violations"] if each["impact"] in ("serious", "critical")]
        assert found == [], what
        assert tab.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), what

    tab.open()
    tab.page.wait_for_selector(".card img")
    check("folder")
    for selector, close in (("#open-classes", "Cancel"), ("#open-help", "Close")):
        tab.page.click(selector)
        check(selector)
        tab.page.get_by_role("button", name=close).click()
        assert tab.page.locator("dialog[open]").count() == 0
    tab.image(0)
    tab.stroke((20, 20), (30, 30))
    tab.saving()
    check("image")
    tab.pressed("v")
    tab.page.mouse.click(*tab.at(20, 20))
    tab.page.wait_for_selector(".voters .voter")
    check("voters")
    for where, selector in (("#/doubtful", ".doubtful a"), ("#/export", ".files a")):
        tab.open(where)
        tab.page.wait_for_selector(selector)
        check(where)
