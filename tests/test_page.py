"""The annotation page in a browser, against a stand-in for its server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from page_server import PageServer, labels_of, runs_of
from scipy import ndimage
from trees import scene

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Route

pytestmark = pytest.mark.browser
STRANGE = "<img src=x onerror=window.hacked=1>"
TWO = [("background", "#000000"), ("object", "#e69f00")]
SAVED, AWAY = "All strokes saved", "Not saved: the server does not answer, trying again"
WIDE, NARROW = 1400, 800
SHAPE = 48, 64  # of the stand-in's images


@pytest.fixture
def server() -> Iterator[PageServer]:
    opened = PageServer({name: scene(60 + i)[0] for i, name in enumerate(("a", "b/c", STRANGE))}, list(TWO))
    yield opened
    opened.close()


class Tab:
    """A tab of the page. Errors that it tells in the console, and requests to elsewhere, fail the test at its end."""

    def __init__(self, browser: Browser, address: str, width: int = WIDE, **options: Any) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        self.page.set_default_timeout(5000)
        self.address, self.faults, self.expected, self.patience = address, list[str](), "^$", 5.0
        self.page.on("console", self._told)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))

    def _told(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.address + "/", "blob:", "data:")):
            self.faults.append(f"asked for {url}")

    def open(self, where: str = "#/folder") -> Tab:
        self.page.goto(f"{self.address}/{where}")
        self.page.wait_for_selector("main h2")
        return self

    def image(self, number: int, query: str = "") -> Tab:
        self.open(f"#/image/{number}{query}")
        self.page.wait_for_selector(".stage[data-ready]")
        return self

    def at(self, x: float, y: float, shape: tuple[int, int] = SHAPE) -> tuple[float, float]:
        """Where the middle of a pixel of a whole image is on the page."""
        box = self.page.locator(".stage").bounding_box()
        assert box
        height, width = shape
        scale = min(box["width"] / width, box["height"] / height) * 0.98
        left, top = box["x"] + (box["width"] - width * scale) / 2, box["y"] + (box["height"] - height * scale) / 2
        return left + (x + 0.5) * scale, top + (y + 0.5) * scale

    def stroke(self, *points: tuple[float, float], shape: tuple[int, int] = SHAPE) -> None:
        mouse = self.page.mouse
        mouse.move(*self.at(*points[0], shape))
        mouse.down()
        for point in points[1:]:
            mouse.move(*self.at(*point, shape))
        mouse.up()

    def saving(self, text: str = SAVED) -> None:
        self.until("text => document.querySelector('#saving').textContent === text", arg=text)

    def until(self, script: str, arg: Any = None) -> None:
        """Waits until a function or expression is true; the policy of the page forbids Playwright's own way."""
        last = time.monotonic() + self.patience
        while not self.page.evaluate(script, arg):
            assert time.monotonic() < last, f"still not so: {script} ({arg})"
            self.page.wait_for_timeout(20)

    def pressed(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def close(self) -> None:
        self.page.close()
        assert [fault for fault in self.faults if not re.search(self.expected, fault)] == []


Opener = Callable[..., Tab]


@pytest.fixture
def opened(browser: Browser, server: PageServer) -> Iterator[Opener]:
    tabs: list[Tab] = []

    def new(width: int = WIDE, **options: Any) -> Tab:
        tabs.append(Tab(browser, server.url, width, **options))
        return tabs[-1]

    yield new
    for each in tabs:
        each.close()


def module(tab: Tab, body: str, given: Any = None) -> Any:
    """What a piece of script returns that has the functions of the page's label maps as `m`."""
    return tab.page.evaluate(f"async given => {{ const m = await import('/static/label_map.js'); {body} }}", given)


@pytest.fixture
def modules(opened: Opener) -> Tab:
    tab = opened()
    tab.open()
    return tab


def some_labels(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A map of blocks, some of them unlabelled."""
    return np.kron(rng.integers(-1, 3, (height // 4, width // 4)), np.ones((4, 4), int))


def test_runs_are_those_of_numpy(modules: Tab) -> None:
    rng = np.random.default_rng(0)
    for box in ([0, 0, 40, 24], [3, 5, 31, 6], [39, 23, 40, 24], [0, 7, 40, 20]):
        labels = some_labels(rng, 24, 40)
        left, top, right, bottom = box
        given = {"labels": labels.ravel().tolist(), "box": box}
        runs = module(modules, "return m.encodeRuns(Int16Array.from(given.labels), 40, given.box)", given)
        assert runs == runs_of(labels[top:bottom, left:right])
        back = module(modules, "return [...m.decodeRuns(given, m.emptyMap(40, 24))]", runs_of(labels))
        assert back == labels.ravel().tolist()
    wrong = "try { m.decodeRuns([0, 5], m.emptyMap(2, 2)) } catch (error) { return error.message }"
    assert "5 pixels" in module(modules, wrong)


def capsule(shape: tuple[int, int], start: tuple[float, float], end: tuple[float, float], size: float) -> np.ndarray:
    """Pixels whose middle is within half the size of the line between the middles of two pixels."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    (x0, y0), (x1, y1) = ((np.floor(x) + 0.5, np.floor(y) + 0.5) for x, y in (start, end))
    length = (x1 - x0) ** 2 + (y1 - y0) ** 2
    along = np.clip(((columns - x0) * (x1 - x0) + (rows - y0) * (y1 - y0)) / length, 0, 1) if length else 0
    distance = np.hypot(columns - x0 - along * (x1 - x0), rows - y0 - along * (y1 - y0))
    return distance - size / 2


def test_strokes_are_capsules(modules: Tab) -> None:
    rng = np.random.default_rng(1)
    body = """
        const labels = m.emptyMap(50, 30), log = [];
        const box = m.paintLine(labels, 50, 30, given.start, given.end, given.size, 2, log);
        const painted = [...labels];
        m.undoLog(labels, log);
        return { painted, box, clean: labels.every((value) => value === -1) };
    """
    for size in (1, 2, 3, 7, 16.0, 41):
        for start, end in (
            *rng.uniform((-9, -9), (59, 39), (8, 2, 2)).tolist(),
            [[9.2, 9.9], [9.2, 9.9]],
            [[3, 4], [30, 4]],
        ):
            told = module(modules, body, {"start": start, "end": end, "size": size})
            distance = capsule((30, 50), start, end, size)
            painted = np.reshape(told["painted"], (30, 50)) == 2
            sure = np.abs(distance) > 1e-6  # a pixel just on the rim may round either way
            assert np.array_equal(painted[sure], (distance < 0)[sure])
            assert told["clean"]
            if painted.any():
                rows, columns = np.nonzero(painted)
                assert told["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            else:
                assert told["box"] is None


def inside(shape: tuple[int, int], corners: list[list[float]]) -> np.ndarray:
    """Pixels whose middle has an odd number of edges to its right."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    crossed = np.zeros(shape, int)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        if ay != by:
            x = ax + (rows - ay) / (by - ay) * (bx - ax)
            crossed += ((ay > rows) != (by > rows)) & (x > columns)
    return crossed % 2 == 1


def test_polygons_are_those_of_the_even_odd_rule(modules: Tab) -> None:
    rng = np.random.default_rng(2)
    body = """
        const labels = m.emptyMap(50, 30);
        m.paintPolygon(labels, 50, 30, given, 1, []);
        return [...labels];
    """
    star = [[25.1, 1.2], [33.3, 28.4], [5.7, 9.1], [44.9, 9.3], [14.2, 28.8]]
    for corners in (star, *(rng.uniform((-9, -9), (59, 39), (n, 2)).tolist() for n in (3, 4, 6, 9))):
        assert np.array_equal(np.reshape(module(modules, body, corners), (30, 50)) == 1, inside((30, 50), corners))


def test_regions_are_those_of_scipy(modules: Tab) -> None:
    rng = np.random.default_rng(3)
    body = """
        const spans = m.region(Int16Array.from(given.labels), 50, 30, given.seed, null, given.most);
        if (!spans) return null;
        const labels = m.emptyMap(50, 30);
        m.paintSpans(labels, 50, spans, 1, []);
        return [...labels];
    """
    for _ in range(12):
        labels = (
            rng.integers(0, 2, (30, 50))
            if rng.random() < 0.5
            else ndimage.zoom(rng.integers(0, 3, (6, 10)), 5, order=0)
        )
        seed = int(rng.integers(0, labels.size))
        same = ndimage.label(labels == labels.flat[seed])[0]
        wanted = same == same.flat[seed]
        given = {"labels": labels.ravel().tolist(), "seed": seed, "most": 2000}
        assert np.array_equal(np.reshape(module(modules, body, given), (30, 50)) == 1, wanted)
        assert (module(modules, body, {**given, "most": int(wanted.sum()) - 1})) is None


def test_changes_undo_repeat_and_invert(modules: Tab) -> None:
    rng = np.random.default_rng(4)
    body = """
        const labels = Int16Array.from(given.labels), log = [];
        m.paintLine(labels, 40, 24, [2, 3], [30, 20], 9, 2, log);
        m.paintPolygon(labels, 40, 24, [[1, 1], [30, 5], [12, 22]], -1, log);
        m.writeMap(labels, Int16Array.from(given.wanted), log);
        const made = [...labels];
        m.undoLog(labels, log);
        const undone = [...labels];
        m.redoLog(labels, log);
        const repeated = [...labels];
        m.redoLog(labels, m.inverseLog(log));
        return { made, undone, repeated, inverted: [...labels], box: m.boxOf([45, 3, -1, 1, 130, 2, 0, 1], 40) };
    """
    first, wanted = (some_labels(rng, 24, 40).ravel().tolist() for _ in range(2))
    told = module(modules, body, {"labels": first, "wanted": wanted})
    assert told["made"] == told["repeated"] == wanted
    assert told["undone"] == told["inverted"] == first
    assert told["box"] == [5, 1, 12, 4]


def painted(server: PageServer, index: int, number: int = 0) -> np.ndarray:
    return server.pictures[number].labels == index


def test_strokes_reach_the_server_and_the_prediction_follows(opened: Opener, server: PageServer) -> None:
    tab = opened().image(0)
    assert "Paint a short stroke" in tab.text(".below .said")
    tab.pressed("1")
    for _ in range(9):
        tab.pressed("[")
    tab.pressed("]", "]", "]", "]")
    tab.stroke((10, 10), (30, 14))
    tab.saving()
    size = int(tab.page.locator(".slider output").first.inner_text().split()[0])
    assert size > 1
    distance = capsule(server.pictures[0].labels.shape, (10, 10), (30, 14), size)
    sure = np.abs(distance) > 1e-6
    assert np.array_equal(painted(server, 0)[sure], (distance < 0)[sure])
    assert "predicted in 0.12 s" in tab.text(".facts")
    tab.pressed("2")
    tab.stroke((40, 40), (50, 40))
    tab.saving()
    assert painted(server, 1)[40, 45]
    before = server.pictures[0].labels.copy()
    tab.pressed("e")
    tab.stroke((45, 40), (45, 41))
    tab.saving()
    assert server.pictures[0].labels[40, 45] == -1
    tab.pressed("z")
    tab.saving()
    assert np.array_equal(server.pictures[0].labels, before)
    tab.page.get_by_role("button", name="Redo").click()
    tab.saving()
    assert server.pictures[0].labels[40, 45] == -1
    tab.pressed("z", "z", "z")
    tab.saving()
    assert (server.pictures[0].labels == -1).all()
    tab.pressed("Shift+Z", "y")
    tab.saving()
    assert np.array_equal(server.pictures[0].labels, before)


def test_without_strokes_there_is_no_mask(opened: Opener, server: PageServer) -> None:
    tab = opened().image(0)
    tab.stroke((10, 10), (30, 14))
    tab.saving()
    tab.page.mouse.move(*tab.at(40, 40))
    tab.until("document.querySelector('.where').textContent.includes('predicted')")
    tab.pressed("z")
    tab.saving()
    tab.page.mouse.move(*tab.at(42, 40))
    tab.until("document.querySelector('.where').textContent === '42, 40'")
    assert "predicted" not in tab.text(".facts")


def test_polygon_and_fill(opened: Opener, server: PageServer) -> None:
    tab = opened().image(0)
    corners = [[10.2, 10.3], [40.3, 12.8], [24.1, 40.7]]
    tab.pressed("2", "p")
    for x, y in corners:
        tab.page.mouse.click(*tab.at(x - 0.5, y - 0.5))
    tab.page.mouse.click(*tab.at(9.8, 9.8))
    tab.saving()
    wanted = inside(server.pictures[0].labels.shape, corners)
    assert painted(server, 1).sum() == pytest.approx(wanted.sum(), abs=3)
    tab.pressed("1", "f")
    tab.page.mouse.click(*tab.at(24, 20))
    tab.saving()
    assert np.array_equal(painted(server, 0), painted(server, 0) & ndimage.binary_dilation(wanted, iterations=2))
    assert not painted(server, 1).any()
    tab.pressed("z", "z", "b", "2", "[", "[", "[")
    tab.stroke((10, 10), (40, 10), (40, 40), (10, 40), (10, 10))
    tab.pressed("f")
    tab.page.mouse.click(*tab.at(25, 25))
    tab.saving()
    assert painted(server, 1)[10:41, 10:41].all()
    assert "Filled the outline" in tab.text(".below .said")


def test_fill_takes_the_predicted_object(opened: Opener, server: PageServer) -> None:
    tab = opened().image(0)
    picture = server.pictures[0]
    tab.pressed("1")
    tab.stroke((2, 2), (12, 2))
    tab.saving()
    tab.pressed("2", "f")
    mask = labels_of(server.prediction(picture)["mask"]["runs"], picture.labels.shape)  # type: ignore[index]
    regions = ndimage.label((mask == mask[30, 30]) & (picture.labels < 0))[0]
    wanted = regions == regions[30, 30]
    tab.page.mouse.click(*tab.at(30, 30))
    tab.saving()
    assert np.array_equal(painted(server, 1), wanted)


def test_zoom_and_pan_keep_the_pixel_under_the_pointer(opened: Opener, server: PageServer) -> None:
    tab = opened().image(0)
    mouse, place = tab.page.mouse, tab.at(20, 30)
    mouse.move(*place)
    for _ in range(4):
        mouse.wheel(0, -300)
    mouse.move(place[0] + 1, place[1])
    tab.until("document.querySelector('.where').textContent.startsWith('20, 30')")
    tab.page.keyboard.down(" ")
    mouse.down()
    mouse.move(place[0] + 150, place[1] - 80)
    mouse.up()
    tab.page.keyboard.up(" ")
    tab.until("document.querySelector('.where').textContent.startsWith('20, 30')")
    mouse.down(button="middle")
    mouse.move(*place)
    mouse.up(button="middle")
    tab.until("document.querySelector('.where').textContent.startsWith('20, 30')")
    tab.pressed("ArrowRight", "0")
    mouse.move(place[0], place[1] + 1)
    tab.until("document.querySelector('.where').textContent.startsWith('20, 30')")
    assert (server.pictures[0].labels == -1).all()


@pytest.mark.parametrize("fineness", [1, 2])
def test_colours_on_screens_of_any_fineness(opened: Opener, server: PageServer, fineness: int) -> None:
    tab = opened(device_scale_factor=fineness).image(0)
    tab.expected = "willReadFrequently"  # which the test does, not the page
    picture = server.pictures[0]
    tab.pressed("1")
    tab.stroke((2, 2), (12, 2))
    tab.saving()
    tab.pressed("2")
    tab.stroke((30, 30), (36, 30))
    tab.saving()
    mask = labels_of(server.prediction(picture)["mask"]["runs"], picture.labels.shape)  # type: ignore[index]
    inner = ndimage.binary_erosion(mask == 1, iterations=2) & (ndimage.maximum_filter(picture.labels, 9) < 0)
    outer = ndimage.binary_erosion(mask == 0, iterations=2) & (ndimage.maximum_filter(picture.labels, 9) < 0)
    script = """([x, y]) => {
        const canvas = document.querySelector("canvas.masks"), frame = canvas.getBoundingClientRect();
        const fine = canvas.width / frame.width;
        const place = [(x - frame.left) * fine, (y - frame.top) * fine];
        return [...canvas.getContext("2d").getImageData(...place, 1, 1).data, fine];
    }"""

    def colour(x: int, y: int) -> list[int]:
        *colour, fine = tab.page.evaluate(script, tab.at(x, y))
        assert fine == fineness
        return list(colour)

    (y, x), (v, u) = np.argwhere(inner)[0], np.argwhere(outer)[0]
    assert colour(int(x), int(y)) == pytest.approx([0xE6, 0x9F, 0, 102], abs=2)
    assert colour(int(u), int(v)) == [0, 0, 0, 0]
    assert colour(33, 30)[3] > 90
    tab.page.get_by_label("Contours only").check()
    tab.until(f"place => ({script})(place)[3] === 0", tab.at(int(x), int(y)))


def test_fingers_paint_and_two_zoom(opened: Opener, server: PageServer) -> None:
    tab = opened(has_touch=True).image(0)
    client = tab.page.context.new_cdp_session(tab.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        places = [dict(zip("xy", tab.at(*point), strict=True)) | {"id": i} for i, point in enumerate(points)]
        client.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": places})

    touch("Start", (20, 20))
    touch("Move", (30, 20))
    touch("End")
    tab.saving()
    before = server.pictures[0].labels.copy()
    assert painted(server, 0)[20, 20:31].all()
    touch("Start", (28, 24))
    touch("Start", (28, 24), (36, 24))
    for step in range(1, 5):
        touch("Move", (28 - step, 24), (36 + step, 24))
    touch("End")
    tab.saving()
    assert np.array_equal(server.pictures[0].labels, before)
    tab.page.mouse.move(*tab.at(32 + 8, 24))
    tab.until("document.querySelector('.where').textContent.startsWith('36, 24')")


def test_escape_takes_back_what_is_begun(opened: Opener, server: PageServer) -> None:
    tab = opened().image(0)
    tab.page.mouse.move(*tab.at(10, 10))
    tab.page.mouse.down()
    tab.page.mouse.move(*tab.at(30, 30))
    tab.pressed("Escape")
    tab.page.mouse.up()
    tab.pressed("p")
    tab.page.mouse.click(*tab.at(10, 10))
    tab.page.mouse.click(*tab.at(30, 10))
    tab.pressed("Escape", "b")
    tab.stroke((50, 44), (52, 44))
    tab.saving()
    assert (server.pictures[0].labels[:40, :40] == -1).all()
    assert (server.pictures[0].labels != -1).any()


def test_keyboard_alone(opened: Opener, server: PageServer) -> None:
    server.classes = []
    tab = opened().open()
    tab.page.wait_for_selector("dialog[open]")
    tab.page.keyboard.type("cell")
    tab.pressed("Enter")
    tab.page.wait_for_selector("dialog", state="hidden")
    assert server.classes == [("background", "#000000"), ("cell", "#e69f00")]
    tab.page.wait_for_selector(".card")
    for _ in range(30):
        tab.pressed("Tab")
        if tab.page.evaluate("document.activeElement.className.includes('card')"):
            break
    tab.pressed("End", "Home", "ArrowRight", "Enter")
    tab.page.wait_for_selector(".stage[data-ready]")
    number = int(tab.page.evaluate("location.hash").split("/")[-1])
    tab.pressed("2", "Shift+ArrowRight", "Enter")
    tab.pressed(*["Shift+ArrowRight"] * 5, "Enter")
    tab.saving()
    assert painted(server, 1, number).any(0).sum() > painted(server, 1, number).any(1).sum() > 0
    first = painted(server, 1, number).sum()
    tab.pressed(
        "1",
        "p",
        *["Shift+ArrowDown"] * 5,
        "Enter",
        *["Shift+ArrowDown"] * 8,
        "Enter",
        *["Shift+ArrowLeft"] * 8,
        "Enter",
    )
    tab.pressed("Enter")
    tab.saving()
    assert painted(server, 0, number).sum() > 0
    tab.pressed("z", "Control+z")
    tab.saving()
    assert (server.pictures[number].labels == -1).all()
    tab.pressed("Control+Shift+Z")
    tab.saving()
    assert painted(server, 1, number).sum() == first
    tab.pressed("a")
    tab.until("document.querySelector('.below .said').textContent.startsWith('Accepted')")
    assert (server.pictures[number].labels >= 0).all()
    tab.pressed("s")
    tab.until("document.querySelector('.below .said').textContent.startsWith('Saved')")
    assert server.pictures[number].status == "saved"
    tab.pressed("?")
    assert "Keys" in tab.text("dialog[open]")
    tab.pressed("Escape", "n")
    tab.until("number => location.hash !== `#/image/${number}`", arg=number)


def test_focus_goes_through_every_control(opened: Opener) -> None:
    tab = opened().image(0)
    seen: list[str] = []
    for _ in range(60):
        tab.pressed("Tab")
        seen.append(
            tab.page.evaluate(
                "(e => e.id || e.getAttribute('aria-label') || e.textContent || e.type)(document.activeElement)"
            )
        )
    wanted = {
        "Images",
        "open-classes",
        "Accept",
        "Save",
        "Next best image",
        "BrushB",
        "EraserE",
        "Who votedV",
        "Undo",
        "Fit",
    }
    assert wanted - {"Undo"} <= set(seen)  # undo is off as long as nothing is painted
    assert [each for each in seen if each.endswith(("B", "E"))][:2] == ["BrushB", "EraserE"]


def test_accept_is_one_step_to_undo(opened: Opener, server: PageServer) -> None:
    tab = opened().image(0)
    tab.pressed("2")
    tab.stroke((20, 20), (30, 20))
    tab.saving()
    before = server.pictures[0].labels.copy()
    tab.pressed("a")
    tab.until("document.querySelector('.below .said').textContent.startsWith('Accepted')")
    assert (server.pictures[0].labels >= 0).all()
    tab.pressed("z")
    tab.saving()
    assert np.array_equal(server.pictures[0].labels, before)


def test_a_reload_keeps_strokes(opened: Opener, server: PageServer) -> None:
    tab = opened().image(0)
    tab.pressed("2")
    tab.stroke((20, 20), (30, 20))
    tab.saving()
    tab.page.reload()
    tab.page.wait_for_selector(".stage[data-ready]")
    tab.page.mouse.move(*tab.at(25, 20))
    tab.until("document.querySelector('.where').textContent.includes('painted object')")
    assert tab.page.locator(".banner").is_hidden()


def test_undo_goes_on_after_another_image(opened: Opener, server: PageServer) -> None:
    tab = opened().image(0)
    tab.stroke((20, 20), (30, 20))
    tab.saving()
    tab.page.get_by_text("Next ›").click()
    tab.until("document.querySelector('h2').textContent === 'b/c'")
    tab.page.get_by_text("‹ Previous").click()
    tab.until("document.querySelector('h2').textContent === 'a'")
    tab.page.wait_for_selector(".stage[data-ready]")
    tab.pressed("z")
    tab.until("document.querySelector('#saving').textContent === 'All strokes saved'")
    tab.until("async () => (await (await fetch('/ui/api/images/0')).json()).annotation.runs.length === 2")


def test_strokes_wait_for_a_server_that_is_away(opened: Opener, server: PageServer) -> None:
    tab = opened().image(0)
    tab.expected = "Failed to load resource"
    tab.page.route("**/ui/api/**", lambda route: route.abort())
    tab.stroke((10, 10), (20, 10))
    tab.saving(AWAY)
    tab.stroke((10, 30), (20, 30))
    assert "does not answer" in tab.text("#notices")
    assert (server.pictures[0].labels == -1).all()
    asked: list[str] = []
    tab.page.once("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    with tab.page.expect_event("dialog"):
        tab.page.evaluate("setTimeout(() => location.assign('about:blank'))")
    tab.page.unroute("**/ui/api/**")
    tab.saving()
    assert painted(server, 0)[10, 15]
    assert painted(server, 0)[30, 15]
    assert asked == ["beforeunload"]
    tab.until("document.querySelector('#notices').textContent === ''")


def test_an_answer_that_is_lost_is_no_other_tab(opened: Opener, server: PageServer) -> None:
    tab = opened().image(0)
    tab.expected = "Failed to load resource"

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    tab.page.route("**/edits", lose, times=1)
    tab.stroke((10, 10), (20, 10))
    tab.saving(AWAY)
    tab.stroke((10, 30), (20, 30))
    tab.saving()
    assert painted(server, 0)[10, 15]
    assert painted(server, 0)[30, 15]
    assert tab.page.locator(".banner").is_hidden()


def test_a_refused_stroke_is_told(opened: Opener, server: PageServer) -> None:
    tab = opened().image(0)
    tab.expected = "status of 422"
    tab.page.route("**/edits", lambda route: route.fulfill(status=422, json={"detail": "runs hold 3 of 4 pixels"}))
    tab.stroke((10, 10), (20, 10))
    tab.saving("Not saved")
    assert "Runs hold 3 of 4 pixels." in tab.text(".banner")


def test_the_second_tab_is_told_and_can_reload(opened: Opener, server: PageServer) -> None:
    first = opened().image(0)
    second = opened().image(0)
    second.expected = "status of 409"
    second.page.wait_for_selector(".banner:visible")
    assert "another tab" in second.text(".banner")
    first.stroke((10, 10), (20, 10))
    first.saving()
    second.stroke((10, 30), (20, 30))
    second.saving("Not saved")
    second.until("document.querySelector('.banner').textContent.includes('changed a')")
    assert (server.pictures[0].labels[28:33] == -1).all()
    second.page.get_by_role("button", name="Reload this image").click()
    second.saving()
    second.page.wait_for_selector(".stage[data-ready]")
    second.page.mouse.move(*second.at(15, 10))
    second.until("document.querySelector('.where').textContent.includes('painted background')")
    second.stroke((10, 30), (20, 30))
    second.saving()
    assert painted(server, 0)[10, 15]
    assert painted(server, 0)[30, 15]


def test_names_are_text(opened: Opener, server: PageServer) -> None:
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


def test_who_voted_and_a_click_goes_there(opened: Opener, server: PageServer) -> None:
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


def test_doubtful_annotations(opened: Opener, server: PageServer) -> None:
    tab = opened().open("#/doubtful")
    tab.page.get_by_role("button", name="Look for doubtful annotations").click()
    tab.page.wait_for_selector("progress:visible")
    server.found = [doubtful(1, "b/c")]
    server.finish("audit")
    tab.page.wait_for_selector(".doubtful a")
    assert "looks like object" in tab.text(".doubtful a").replace("\n", " ")
    tab.page.click(".doubtful a")
    tab.until("document.querySelector('h2').textContent === 'b/c'")


def test_export(opened: Opener, server: PageServer) -> None:
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


def test_work_can_be_cancelled_and_its_failure_is_told(opened: Opener, server: PageServer) -> None:
    tab = opened().open()
    tab.page.get_by_role("button", name="Fit to my annotations").click()
    tab.page.get_by_role("button", name="Cancel: Fit to my annotations").click()
    tab.page.get_by_text("Cancelled.").wait_for()
    tab.page.get_by_role("button", name="Fit to my annotations").click()
    tab.page.wait_for_selector("progress:visible")
    server.finish("fit", "failed", "Two images are needed, there is one.")
    tab.page.get_by_text("Two images are needed, there is one.").wait_for()


def test_order_and_choice_of_images(opened: Opener, server: PageServer) -> None:
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


def test_thousands_of_images(opened: Opener, server: PageServer) -> None:
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


def test_a_new_class(opened: Opener, server: PageServer) -> None:
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
def test_nothing_serious_for_axe_and_no_scrolling_to_the_side(opened: Opener, server: PageServer, width: int) -> None:
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
