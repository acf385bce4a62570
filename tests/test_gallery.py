"""The contact sheet and the page: what is pasted where, and that one file holds it all."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from fungi_seg import Neighbour, Segmentation
from fungi_seg.images.pages import PAGE_SIDE, Table
from fungi_seg.images.pictures import CAPTION, FALSE, GAP, MARK, MISSED, PAPER, TILE
from fungi_seg.segmentation.gallery import SHOWN, Panel, Vote, contact_sheet, page

PALETTE = np.array([[0, 0, 0], [0, 255, 0]], np.uint8)
GREY, RED, BLUE = (100, 100, 100), (220, 30, 20), (20, 40, 230)
SMALL = (TILE - GAP) // 2
COLUMN = TILE + GAP
STRIP = 3 * COLUMN + SHOWN // 2 * (SMALL + GAP) + GAP, TILE + CAPTION + GAP
Box = tuple[float, float, float, float]


def plain(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def vote(source: np.ndarray, box: Box, name: str = "source", labels: tuple[float, float] = (0.25, 0.75)) -> Vote:
    return Vote(Neighbour(3, name, box, 0.9, 0.4, np.array(labels, np.float32)), source)


def panel(
    image: np.ndarray,
    votes: list[Vote] | None = None,
    name: str = "image",
    classes: tuple[str, str] = ("ground", "thing"),
    caption: str = "a caption",
) -> Panel:
    """Truth: class 1 in the left half, void above right. Prediction: class 1 in the lower half."""
    height, width = image.shape[:2]
    truth, mask = np.zeros((height, width), np.int16), np.zeros((height, width), np.uint8)
    truth[:, : width // 2] = 1
    truth[: height // 2, width // 2 :] = -1
    mask[height // 2 :] = 1
    found = Segmentation(mask, torch.zeros(2, 1, 1), (1, 1), classes, PALETTE, image)
    return Panel(
        name,
        truth,
        {"plain": found, "FUNGI": found},
        (width // 2, height // 2),
        min(height, width) / 11,
        votes or [],
        caption,
    )


# The contact sheet


@pytest.mark.parametrize(("count", "across", "down"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 2, 2), (5, 2, 3)])
def test_size_of_the_sheet(count: int, across: int, down: int) -> None:
    sheet = contact_sheet([panel(plain(30, 40, GREY))] * count)
    assert (sheet.mode, sheet.size) == ("RGB", (GAP + across * STRIP[0], CAPTION + down * STRIP[1]))


def test_pictures_of_a_panel_are_side_by_side() -> None:
    sheet = contact_sheet([panel(plain(TILE, TILE, GREY))])
    mixed = tuple((np.array(GREY) * 0.8 + PALETTE[1] * 0.2).round().astype(int))
    quarters = [(TILE // 4, TILE // 4), (3 * TILE // 4, TILE // 4), (TILE // 4, 3 * TILE // 4)]
    quarters.append((3 * TILE // 4, 3 * TILE // 4))
    expected = [
        [GREY, GREY, GREY, GREY],
        [mixed, GREY, mixed, GREY],  # of the truth void and the black class leave the image
        [GREY, GREY, mixed, mixed],
    ]
    for column, colours in enumerate(expected):
        found = [sheet.getpixel((GAP + column * COLUMN + x, CAPTION + y)) for x, y in quarters]
        assert found == colours
    for x in (GAP // 2, GAP + COLUMN - GAP // 2, GAP + 3 * COLUMN + SMALL // 2):
        assert sheet.getpixel((x, CAPTION + TILE // 2)) == PAPER  # between the pictures, and where no vote is shown


def test_the_patch_is_framed() -> None:
    """A frame of the mark's colour about the pixel, and the image inside it."""
    sheet = np.asarray(contact_sheet([panel(plain(TILE, TILE, GREY))]))
    tile = sheet[CAPTION : CAPTION + TILE, GAP : GAP + TILE]
    rows, columns = np.nonzero((tile == MARK).all(2))
    middle, half = TILE / 2, TILE / 22
    for places in (rows, columns):
        assert middle - half - 4 <= places.min() <= middle - half
        assert middle + half <= places.max() <= middle + half + 4
    assert tuple(tile[TILE // 2, TILE // 2]) == GREY
    for column in (1, 2):
        other = sheet[CAPTION : CAPTION + TILE, GAP + column * COLUMN : GAP + column * COLUMN + TILE]
        assert not (other == MARK).all(2).any()


def test_panels_and_votes_are_in_order() -> None:
    """Each panel and each vote has a colour of its own; the seventh vote isn't shown, nor a fourth panel."""
    colours = [(10 * i + 5, 250 - 30 * i, 40 * i) for i in range(SHOWN + 1)]
    votes = [vote(plain(60, 80, colour), (30, 20, 38, 28)) for colour in colours]
    panels = [panel(plain(50, 50, colour), votes[i:]) for i, colour in enumerate([RED, BLUE, GREY])]
    sheet = contact_sheet(panels)
    for number, colour in enumerate([RED, BLUE, GREY]):
        left, top = GAP + number % 2 * STRIP[0], CAPTION + number // 2 * STRIP[1]
        assert sheet.getpixel((left + 20, top + 20)) == colour
        for place in range(SHOWN):
            x = left + 3 * COLUMN + place % 3 * (SMALL + GAP) + SMALL // 2
            y = top + place // 3 * (SMALL + GAP) + SMALL // 2
            expected = colours[number + place] if number + place <= SHOWN else PAPER
            assert sheet.getpixel((x, y)) == expected
    assert sheet.getpixel((GAP + STRIP[0] + 20, CAPTION + STRIP[1] + 20)) == PAPER


def test_titles_and_captions_are_written() -> None:
    titles = (slice(0, CAPTION), slice(None))
    lines = (slice(CAPTION + TILE + 1, CAPTION + TILE + CAPTION), slice(None))
    one, other = (np.asarray(contact_sheet([panel(plain(20, 20, GREY), caption=text)])) for text in ("IoU 3 %", "x"))
    assert (one[titles] != PAPER).any()
    np.testing.assert_array_equal(one[titles], other[titles])
    assert (one[lines] != other[lines]).any()


def test_captions_say_what_is_unknown() -> None:
    one = panel(plain(20, 20, GREY), caption="a caption")
    mask = one.last.mask.copy()
    mask[:5] = 255
    other = replace(one, found={"plain": one.last, "FUNGI": replace(one.last, mask=mask)})
    for given, words in ((one, "a caption"), (other, "a caption; 25% unknown (hatched)")):
        assert f">{words}<" in page("title", [], [], [given])


@pytest.mark.parametrize(("height", "width"), [(20, 200), (200, 20), (1, 300), (7, 5)])
def test_images_that_are_not_square(height: int, width: int) -> None:
    """Made smaller to fit, or larger by a whole factor, in the middle of their tile, on paper."""
    image = np.zeros((height, width, 3), np.uint8) + np.array(BLUE, np.uint8)
    tile = np.asarray(contact_sheet([panel(image)]))[CAPTION:, GAP : GAP + TILE][:TILE]
    longest = max(height, width)
    scale = TILE // longest if longest <= TILE else TILE / longest
    rows, columns = np.nonzero((tile != PAPER).any(2))
    for places, side in ((rows, height), (columns, width)):
        assert places.max() - places.min() + 1 == pytest.approx(max(1, scale * side), abs=1)
        assert (places.max() + places.min()) / 2 == pytest.approx((TILE - 1) / 2, abs=1)


def vote_tile(source: np.ndarray, box: Box) -> np.ndarray:
    """What is shown of one neighbour, `[SMALL, SMALL, 3]`."""
    sheet = np.asarray(contact_sheet([panel(plain(20, 20, GREY), [vote(source, box)])]))
    return sheet[CAPTION : CAPTION + SMALL, GAP + 3 * COLUMN : GAP + 3 * COLUMN + SMALL]


@pytest.mark.parametrize(
    ("box", "at"),
    [
        ((0, 0, 8, 8), (4, 4)),
        ((192, 112, 200, 120), (80, 80)),
        ((0, 112, 8, 120), (80, 4)),
        ((96, 56, 104, 64), (42, 42)),
    ],
)
def test_surroundings_of_a_neighbour(box: Box, at: tuple[int, int]) -> None:
    """Eleven patches wide, about the patch in the middle of the source, against the border elsewhere."""
    source = plain(120, 200, BLUE)
    source[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = RED
    tile = vote_tile(source, box)
    red = (np.abs(tile.astype(int) - RED) < 40).all(2)
    assert red[at]
    assert red.sum() == pytest.approx((SMALL / 11) ** 2, rel=0.6)
    framed = (np.abs(tile.astype(int) - MARK) < 90).all(2)
    rows, columns = np.nonzero(framed)
    assert np.hypot(rows - at[0], columns - at[1]).max() < 12
    assert len(rows) > 10
    assert (np.abs(tile.astype(int) - BLUE) < 3).all(2).mean() > 0.8


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 9), (9, 5), (1, 1), (3, 40), (40, 3), (16, 16)])
@pytest.mark.parametrize("patch", [0.5, 1, 2.7, 8])
def test_neighbours_at_the_borders_of_tiny_sources(height: int, width: int, patch: float) -> None:
    """Sources smaller than the surroundings to show, or smaller than a patch."""
    right, low = max(0, width - patch), max(0, height - patch)
    for x, y in [(0, 0), (right, 0), (0, low), (right, low), (right / 2, low / 2)]:
        tile = vote_tile(plain(height, width, BLUE), (x, y, min(width, x + patch), min(height, y + patch)))
        assert tile[..., 2].min() >= 220  # the source's blue and the mark's, nothing from beyond the source
        assert (tile[..., 1] > 150).any() or patch >= min(height, width)  # the mark, unless it lies around the source


def test_grey_images() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 3, axis=2).repeat(48, axis=0)
    sheet = np.asarray(contact_sheet([panel(ramp, [vote(ramp, (0, 0, 8, 8))])]))
    tile = sheet[CAPTION + 50, GAP : GAP + TILE].astype(int)[24:152]
    assert (np.diff(tile[:, 0]) >= 0).all()
    assert (tile == tile[:, :1]).all()


def test_dark_images_are_stretched_and_said_to_be() -> None:
    dark = np.random.default_rng(0).integers(0, 31, (TILE, TILE, 3), np.uint8)
    sheet = np.asarray(contact_sheet([panel(dark, [vote(dark, (80, 80, 88, 88))])]))
    assert sheet[CAPTION + 4 : CAPTION + 40, GAP + 4 : GAP + 60].max() == 255
    assert np.percentile(sheet[CAPTION : CAPTION + 20, GAP + 3 * COLUMN :][:, :SMALL], 95) > 120
    assert ">a caption; stretched for display, 0 to 30 of 255<" in page("title", [], [], [panel(dark)])
    assert "stretched" not in page("title", [], [], [panel(plain(20, 20, GREY))])


# The page


class Parsed(HTMLParser):
    """Tags, attributes and text of a page; complains about tags that aren't closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def sources(self) -> list[str]:
        return [value or "" for name, value in self.attributes if name == "src"]


STRANGE = "<b>&\"'"


@pytest.fixture(scope="module")
def strange() -> Parsed:
    """A page in which every text that is given would be a tag if it weren't escaped."""
    votes = [vote(plain(30, 30, RED), (0, 0, 8, 8), name=f"{STRANGE} source", labels=(1, 0))]
    votes.append(vote(plain(30, 30, BLUE), (8, 8, 16, 16), name="other"))
    names = (f"{STRANGE} ground", f"{STRANGE} thing")
    panels = [panel(plain(20, 30, GREY), votes, f"{STRANGE} image", names, f"{STRANGE} caption")]
    panels.append(panel(plain(20, 30, GREY), [], "second"))
    tables = [Table((f"{STRANGE} head", "b"), [(f"{STRANGE} cell", "2"), ("3", "4")])]
    return Parsed(page(f"{STRANGE} title", [f"{STRANGE} text"], tables, panels))


def test_whatever_is_given_is_text(strange: Parsed) -> None:
    assert "b" not in strange.tags
    for given in ("title", "text", "head", "cell", "image", "caption", "source"):
        assert any(f"{STRANGE} {given}" in text for text in strange.text), given
    assert f"{STRANGE} ground 100%" in strange.text
    assert f"{STRANGE} ground 25%, {STRANGE} thing 75%" in strange.text
    assert "40% of the vote, cosine 0.90" in strange.text


def test_the_page_needs_no_other_file(strange: Parsed) -> None:
    assert not {"script", "link", "iframe", "object", "base"} & set(strange.tags)
    assert "href" not in dict(strange.attributes)
    assert all(source.startswith("data:image/jpeg;base64,") for source in strange.sources)
    assert not any("url(" in text or "@import" in text or "http" in text for text in strange.text)


def test_pictures_of_the_page(strange: Parsed) -> None:
    """Of each panel image and truth, then each prediction with its errors; after the first panel's its two votes."""
    pictures = []
    for source in strange.sources:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2], validate=True))) as picture:
            assert picture.format == "JPEG"
            pictures.append(np.asarray(picture.convert("RGB")).astype(int))
    assert len(pictures) == 6 + 2 + 6
    factor = PAGE_SIDE // 30
    assert [picture.shape[:2] for picture in pictures[:6]] == [(20 * factor, 30 * factor)] * 6
    for picture, colour in ((pictures[6], RED), (pictures[7], BLUE)):
        assert (np.abs(picture[-20:, -20:] - colour) < 12).all()
    mixed = np.array(GREY) * 0.8 + PALETTE[1] * 0.2
    for number, y, x in ((1, 5, 3), (2, 17, 25), (4, 17, 25)):
        assert np.abs(pictures[number][y * factor, x * factor] - mixed).max() < 12
    for errors in (pictures[3], pictures[5]):  # class 1 is on the left, void above right, and found below
        for y, x, colour in ((5, 7, MISSED), (15, 22, FALSE)):
            assert np.abs(errors[y * factor, x * factor] - colour).max() < 30
        for y, x in ((5, 22), (15, 7)):
            assert np.ptp(errors[y * factor, x * factor]) < 12
    titles = ["image", "truth", "plain", "errors of plain", "FUNGI", "errors of FUNGI"]
    assert [text for text in strange.text if text in titles] == 2 * titles


def test_six_voters_are_open_and_the_others_folded() -> None:
    source = plain(30, 30, RED)
    for count, folded in ((6, 0), (7, 1), (30, 24)):
        votes = [vote(source, (0, 0, 8, 8), f"voter {i}") for i in range(count)]
        text = page("title", [], [], [panel(plain(20, 30, GREY), votes)])
        opened, _, rest = text.partition("<details>")
        assert (opened.count("voter "), rest.count("voter ")) == (6, folded)
        assert (f"<summary>{folded} more</summary>" in rest) == bool(folded)


def test_the_legend_names_classes_and_errors(strange: Parsed) -> None:
    """The black class isn't painted."""
    given = [text for text in strange.text if text.strip()]
    start = given.index(f"{STRANGE} thing")
    assert given[start : start + 4] == [
        f"{STRANGE} thing",
        "missed",
        "found where it isn't",
        "the patch that is explained",
    ]
    styles = [value for name, value in strange.attributes if name == "style" and "background" in str(value)]
    assert styles[:2] == ["background:rgb(0,255,0)", "background:rgb({},{},{})".format(*MISSED)]


def test_tables_of_the_page(strange: Parsed) -> None:
    assert [strange.tags.count(tag) for tag in ("table", "tr", "th", "td")] == [1, 3, 2, 4]


def test_a_page_without_panels() -> None:
    parsed = Parsed(page("title", [], [], []))
    assert parsed.sources == []
    assert parsed.text.count("title") == 2  # of the window, and above the text
