"""What is painted reaches the server, whatever happens to it, to the tab and to other tabs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from page_server import PageServer
from page_tab import AWAY, Opener, opened, painted, server  # noqa: F401

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = pytest.mark.browser


def test_a_reload_keeps_strokes(opened: Opener, server: PageServer) -> None:  # noqa: F811
    tab = opened().image(0)
    tab.pressed("2")
    tab.stroke((20, 20), (30, 20))
    tab.saving()
    tab.page.reload()
    tab.page.wait_for_selector(".stage[data-ready]")
    tab.page.mouse.move(*tab.at(25, 20))
    tab.until("document.querySelector('.where').textContent.includes('painted object')")
    assert tab.page.locator(".banner").is_hidden()


def test_undo_goes_on_after_another_image(opened: Opener, server: PageServer) -> None:  # noqa: F811
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


def test_strokes_wait_for_a_server_that_is_away(opened: Opener, server: PageServer) -> None:  # noqa: F811
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


def test_an_answer_that_is_lost_is_no_other_tab(opened: Opener, server: PageServer) -> None:  # noqa: F811
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


def test_a_server_that_wants_its_token_again(opened: Opener, server: PageServer) -> None:  # noqa: F811
    tab = opened().image(0)
    tab.expected = "status of 401"
    refusal = {"detail": "a token is needed; open the address that the server printed"}
    tab.page.route("**/ui/api/**", lambda route: route.fulfill(status=401, json=refusal))
    tab.stroke((10, 10), (20, 10))
    tab.saving("Not saved, trying again. A token is needed; open the address that the server printed.")
    tab.page.locator("#notices").get_by_text("A token is needed").wait_for()
    tab.page.unroute("**/ui/api/**")
    tab.saving()
    assert painted(server, 0)[10, 15]
    tab.until("document.querySelector('#notices').textContent === ''")


def test_a_refused_stroke_is_told(opened: Opener, server: PageServer) -> None:  # noqa: F811
    tab = opened().image(0)
    tab.expected = "status of 422"
    tab.page.route("**/edits", lambda route: route.fulfill(status=422, json={"detail": "runs hold 3 of 4 pixels"}))
    tab.stroke((10, 10), (20, 10))
    tab.saving("Not saved")
    assert "Runs hold 3 of 4 pixels." in tab.text(".banner")


def test_the_second_tab_is_told_and_can_reload(opened: Opener, server: PageServer) -> None:  # noqa: F811
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
