"""From a folder of images and no annotation to masks of all of them, by strokes on three, in a browser."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from page_tab import Tab
from PIL import Image
from scipy import ndimage

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
NUCLEI = Path(__file__).parent.parent / "fungi_seg" / "assets" / "nuclei"
COUNT, ANNOTATED, SIZE = 12, 3, (256, 256)
NUCLEUS = 1
LEAST_IOU = 0.60
ROOM = 4.0  # pixels between a stroke's line and what it must not touch
PATIENCE = 60_000  # milliseconds for a step; on a machine that does nothing else it takes seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = tmp_path_factory.mktemp("nuclei") / "images"
    images.mkdir()
    files = [file for file in sorted(NUCLEI.glob("*/images/fluorescence_*.png")) if Image.open(file).size == SIZE]
    for file in files[:COUNT]:
        shutil.copy(file, images)
    return images


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Where `fungi-seg serve` says that it listens."""
    options = ["--bank", str(folder.parent / "bank"), "--port", "0", "--browser", "false"]
    command = [sys.executable, "-m", "fungi_seg", "serve", str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        line = server.stdout.readline()
        yield re.findall(r"http://\S+", line)[0].rstrip("/")
        server.terminate()


def true_mask(name: str) -> np.ndarray:
    return np.array(Image.open(next(NUCLEI.glob(f"*/masks/{name}.png"))))


Line = tuple[tuple[float, float], tuple[float, float]]


def strokes_on_nuclei(mask: np.ndarray, most: int = 6) -> list[Line]:
    """A line along each of the largest nuclei."""
    regions, count = ndimage.label(mask == NUCLEUS)
    sizes = ndimage.sum_labels(np.ones(mask.shape), regions, range(1, count + 1))
    lines = []
    for region in np.argsort(-sizes)[:most] + 1:
        depth = ndimage.distance_transform_edt(np.pad(regions == region, 1))[1:-1, 1:-1]
        inner = np.argwhere(depth >= min(ROOM, depth.max()))
        start = inner[((inner - inner.mean(0)) ** 2).sum(1).argmax()]
        end = inner[((inner - start) ** 2).sum(1).argmax()]
        lines.append(((float(start[1]), float(start[0])), (float(end[1]), float(end[0]))))
    return lines


def strokes_beside(mask: np.ndarray, most: int = 4) -> list[Line]:
    """Long lines that keep away from all nuclei, and short ones close to some, where masks grow too large."""
    rng = np.random.default_rng(0)
    depth = ndimage.distance_transform_edt(mask != NUCLEUS)
    places = np.argwhere(depth > ROOM)
    found: list[tuple[float, float, Line]] = []
    for y0, x0 in places[rng.integers(0, len(places), 3000)]:
        angle, length = rng.uniform(0, 2 * np.pi), rng.choice((16, 80, 160))
        y1, x1 = y0 + length * np.sin(angle), x0 + length * np.cos(angle)
        if 0 <= y1 < mask.shape[0] - 1 and 0 <= x1 < mask.shape[1] - 1:
            on_way = depth[tuple(np.linspace((y0, x0), (y1, x1), 64).round().astype(int).T)]
            if on_way.min() > ROOM:
                found.append((float(length), float(on_way.mean()), ((float(x0), float(y0)), (float(x1), float(y1)))))
    far = sorted(found, key=lambda line: (-line[0], -line[1]))[:most]
    near: list[tuple[float, float, Line]] = []
    for line in sorted(found, key=lambda line: line[1]):
        if len(near) < most and all(np.hypot(*np.subtract(line[2][0], other[2][0])) > 40 for other in near):
            near.append(line)
    return [line for _, _, line in far + near]


class Annotator(Tab):
    """Somebody at the page of the real server."""

    def __init__(self, browser: Browser, address: str) -> None:
        super().__init__(browser, address)
        self.page.set_default_timeout(PATIENCE)
        self.patience = PATIENCE / 1000

    def said(self, begin: str) -> None:
        self.until("begin => document.querySelector('.below .said').textContent.startsWith(begin)", begin)

    def ready(self) -> str:
        """The name of the image that is shown, once it can be painted on."""
        self.page.wait_for_selector(".stage[data-ready]")
        return self.text("main h2")

    def lines(self, key: str, lines: list[Line], shape: tuple[int, int]) -> None:
        self.pressed(key)
        for start, end in lines:
            middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
            self.stroke(start, middle, end, shape=shape)


def test_from_nothing_to_masks(browser: Browser, address: str, folder: Path) -> None:
    tab = Annotator(browser, address)
    page = tab.page
    page.goto(address)
    page.wait_for_selector("dialog[open]")
    page.keyboard.type("nucleus")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog", state="hidden")
    page.get_by_role("link", name="Next best image").wait_for()
    annotated = sorted(file.stem for file in folder.iterdir())[:: COUNT // ANNOTATED]
    for name in annotated:
        page.get_by_role("link", name="Images", exact=True).click()
        page.locator(".card", has_text=name).click()
        assert tab.ready() == name
        mask = true_mask(name)
        tab.lines("2", strokes_on_nuclei(mask), mask.shape)
        tab.lines("1", strokes_beside(mask), mask.shape)
        tab.saving()
        tab.until("/predicted in [0-9.]+ s/.test(document.querySelector('.facts').textContent)")
        if name == annotated[0]:
            second_looks(tab, browser, address, mask)
        tab.pressed("s")
        tab.said("Saved.")
    tab.pressed("n")
    tab.until("names => !names.includes(document.querySelector('main h2').textContent)", annotated)
    tab.ready()
    page.get_by_role("link", name="Export").click()
    page.get_by_role("button", name="Write the files").click()
    page.get_by_text(f"Wrote the files of {COUNT} images").wait_for(timeout=5 * PATIENCE)
    page.wait_for_selector(".files a")
    written = {}
    for link in page.locator(".files a").all():
        if re.search(r"masks/.*\.png$", link.inner_text()):
            file = page.request.get(f"{address}{link.get_attribute('href')}").body()
            written[Path(link.inner_text()).stem] = np.array(Image.open(io.BytesIO(file)))
    assert sorted(written) == sorted(file.stem for file in folder.iterdir())
    both = either = 0
    for name in written.keys() - set(annotated):
        found, true = written[name] == NUCLEUS, true_mask(name) == NUCLEUS
        both += int((found & true).sum())
        either += int((found | true).sum())
    print(f"IoU of nucleus on {len(written) - ANNOTATED} images: {both / either:.3f}")
    assert both / either >= LEAST_IOU
    tab.close()


def second_looks(tab: Annotator, browser: Browser, address: str, mask: np.ndarray) -> None:
    """What one does on the way: undo, ask who voted, reload, and open the image twice."""
    page, place = tab.page, strokes_on_nuclei(mask)[0][0]
    shown = "text => document.querySelector('.where').textContent.includes(text)"

    def hover(x: float, y: float) -> None:
        page.mouse.move(*tab.at(x, y, shape=mask.shape))

    tab.pressed("e")
    tab.stroke(place, place, shape=mask.shape)
    tab.saving()
    tab.pressed("z")
    tab.saving()
    hover(*place)
    tab.until(shown, "painted nucleus")
    tab.pressed("v")
    page.mouse.click(*tab.at(*place, shape=mask.shape))
    page.wait_for_selector(".voters .voter")
    assert "nucleus" in tab.text(".voters-panel .said")
    assert page.locator(".voters a").count() >= 1
    tab.pressed("Escape")
    page.reload()
    tab.ready()
    hover(*place)
    tab.until(shown, "painted nucleus")
    other = Annotator(browser, address)
    other.page.goto(page.url)
    other.page.wait_for_selector(".banner:visible")
    assert "another tab" in other.text(".banner")
    other.close()
