"""Features that aren't finite are never handed out, and the image that they are of is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trees import scene

from fungi_seg import (
    Backbone,
    FungiSegError,
    MemoryBank,
    Segmenter,
)
from fungi_seg.cli import main


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the tokens of the image at one place of a batch not finite."""
    tokens = Backbone.tokens

    def break_at(place: int) -> None:
        def one_of_them(self: Backbone, images: Any) -> Any:
            found = tokens(self, images).clone()
            found[place] = float("inf")
            return found

        monkeypatch.setattr(Backbone, "tokens", one_of_them)

    return break_at


def test_the_image_is_named_everywhere(
    bank: MemoryBank, tiny_backbone: Backbone, photo: Path, broken: Callable[[int], None]
) -> None:
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
    broken(0)
    for ask in (
        lambda: segmenter.predict(photo),
        lambda: segmenter.predict(str(photo)),
        lambda: segmenter.explain(photo, at=(1, 1)),
        lambda: segmenter.neighbours(photo, 1, 1),
    ):
        with pytest.raises(FungiSegError, match=r"in/photo\.png: the features \(fungi\) are not finite; use dtype"):
            ask()
    with pytest.raises(FungiSegError, match=r"^image 0: the features \(fungi\) are not finite"):
        segmenter.predict(scene(0)[0])


def test_one_image_of_a_batch(bank: MemoryBank, tiny_backbone: Backbone, broken: Callable[[int], None]) -> None:
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
    images = [scene(i)[0] for i in range(3)]
    broken(1)
    with pytest.raises(FungiSegError, match=r"^b: the features"):
        segmenter.predict_fitted([segmenter.fit(image) for image in images], images, ["a", "b", "c"])


def test_segment_and_evaluate_name_it(
    bank: MemoryBank,
    photo: Path,
    tmp_path: Path,
    broken: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken(-1)
    assert main(["segment", str(photo), "--bank", str(bank.path), "--out", str(tmp_path / "out")]) == 1
    assert f"error: {photo}: the features (fungi) are not finite" in capsys.readouterr().err
    root = str(bank.path.parent / "data")
    assert main(["evaluate", "--bank", str(bank.path), "--data.root", root, "--data.split=val"]) == 1
    assert "error: val_1: the features (fungi) are not finite" in capsys.readouterr().err
