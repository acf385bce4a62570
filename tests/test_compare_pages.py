"""Pages of comparisons as a browser shows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from test_image_counts import masks, write_tree
from test_pages import shown, tab  # noqa: F401

from fungi_seg import DataConfig, evaluate_predictions, open_dataset, open_predictions
from fungi_seg.evaluation import Result, compare, comparison_html, draw_comparison

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def test_what_changed(tab: Page, tmp_path: Path) -> None:  # noqa: F811
    """Tables, the chart, and five pictures of each image that changed; nothing is wider than the page."""
    truths, first = masks(0, 3)
    left = np.arange(30)
    found = {
        "a folder of a rather long name": first,
        "another folder of a long name": [np.where(left < 9, t, f) for t, f in zip(truths, first, strict=True)],
        "third": [np.where(left > 25, t, f) for t, f in zip(truths, first, strict=True)],
    }
    results, shown_masks = [], {}
    for number, (name, predictions) in enumerate(found.items()):
        root = write_tree(tmp_path / str(number), truths, predictions)
        dataset = open_dataset(DataConfig(root=str(root), split="val"))
        opened = open_predictions(root / "found", dataset)
        results.append(Result.of(name, evaluate_predictions(opened, dataset)))
        shown_masks[name] = lambda item, sample, opened=opened: opened.mask(item, sample.image.shape[:2])
    comparison = compare(results)
    draw_comparison(comparison, tmp_path / "compare.png")
    file = tmp_path / "index.html"
    file.write_text(comparison_html(comparison, tmp_path / "compare.png", dataset, shown_masks), encoding="utf-8")
    page = shown(tab, file)
    pictures = page.locator("img")
    assert pictures.count() == 1 + 2 * 3 * 5
    assert all(pictures.nth(i).evaluate("i => i.naturalWidth > 0 && i.width > 20") for i in range(pictures.count()))
    assert page.locator("table").count() == 3
    assert page.get_by_text("a folder of a rather long name right (vermilion)").count() == 6
    assert page.locator(".legend li").all_inner_texts() == ["red", "green", "blue"]
    assert pictures.nth(0).evaluate("i => i.width") > 500  # the chart can be read
