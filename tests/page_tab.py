"""The annotation page in a tab of a browser, against a stand-in for its server: what its tests share."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from page_server import PageServer
from trees import scene

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

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


def painted(server: PageServer, index: int, number: int = 0) -> np.ndarray:
    return server.pictures[number].labels == index
