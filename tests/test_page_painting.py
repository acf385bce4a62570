"""Painting on the annotation page: by mouse, keyboard and fingers."""

from __future__ import annotations

import numpy as np
import pytest
from page_server import PageServer, labels_of
from page_tab import Opener, opened, painted, server  # noqa: F401
from scipy import ndimage
from test_page_maps import capsule, inside

pytestmark = pytest.mark.browser


def test_strokes_reach_the_server_and_the_prediction_follows(opened: Opener, server: PageServer) -> None:  # noqa: F811
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


def test_without_strokes_there_is_no_mask(opened: Opener, server: PageServer) -> None:  # noqa: F811
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


def test_polygon_and_fill(opened: Opener, server: PageServer) -> None:  # noqa: F811
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


def test_fill_takes_the_predicted_object(opened: Opener, server: PageServer) -> None:  # noqa: F811
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


def test_zoom_and_pan_keep_the_pixel_under_the_pointer(opened: Opener, server: PageServer) -> None:  # noqa: F811
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
def test_colours_on_screens_of_any_fineness(opened: Opener, server: PageServer, fineness: int) -> None:  # noqa: F811
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


def test_fingers_paint_and_two_zoom(opened: Opener, server: PageServer) -> None:  # noqa: F811
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


def test_escape_takes_back_what_is_begun(opened: Opener, server: PageServer) -> None:  # noqa: F811
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


def test_keyboard_alone(opened: Opener, server: PageServer) -> None:  # noqa: F811
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


def test_focus_goes_through_every_control(opened: Opener) -> None:  # noqa: F811
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


def test_accept_is_one_step_to_undo(opened: Opener, server: PageServer) -> None:  # noqa: F811
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
