"""The fit's last step: class share, regression and edges, chosen on pixels of the bank's own images."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from trees import folder_tree

from fungi_seg import (
    BankConfig,
    DataConfig,
    InputConfig,
    MemoryBank,
    Segmenter,
    build_bank,
    load_backbone,
    open_dataset,
)
from fungi_seg.bank import BankRecipe, SourceImages
from fungi_seg.cli import main
from fungi_seg.segmentation import DecoderConfig, Grid, fit_decoder, mean_iou_of
from fungi_seg.segmentation.fit import Trial
from fungi_seg.segmentation.fit_pixels import Pixels

NUCLEI = Path(__file__).parents[1] / "fungi_seg" / "assets" / "nuclei"
IMAGES = 6
GRID = Grid(
    gradient_weight=(0.3,), k=(30,), temperature=(0.02,), class_share=(0.0, 0.5), ridge=(("token", 1.0),),
    penalty=(1e-2,), share=(0.5,), refine=(1.0,),
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of the images that come with the package, small."""
    root = tmp_path_factory.mktemp("data") / "nuclei"
    shutil.copytree(NUCLEI, root, ignore=shutil.ignore_patterns("val"))
    for number, image in enumerate(sorted((root / "train" / "images").iterdir())):
        mask = root / "train" / "masks" / f"{image.stem}.png"
        if number >= IMAGES:
            image.unlink()
            mask.unlink()
    return root


@pytest.fixture(scope="module")
def bank(root: Path, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    data = DataConfig(root=str(root), split="train")
    out = tmp_path_factory.mktemp("bank") / "bank"
    recipe = BankRecipe(input=InputConfig(96), bank=BankConfig(size=3000))
    backbone = load_backbone("embedded", device="cpu", dtype="float32")
    return build_bank(open_dataset(data), backbone, out, recipe, record={"data": asdict(data)})


def pixels_of(bank: MemoryBank, root: Path) -> tuple[Trial, DecoderConfig, Pixels]:
    trial = Trial(bank, GRID)
    base = trial.choose_vote()[0]
    (best,) = trial.best_regressions(base)
    return trial, best, trial.pixels(base, SourceImages(bank), bank.patch_features(dtype="float32"))


def test_pixels_are_those_of_a_bank_without_the_image(bank: MemoryBank, root: Path, tmp_path: Path) -> None:
    """Each image by a bank from which it was removed, at the size at which it enters."""
    _, best, pixels = pixels_of(bank, root)
    settings = replace(best, ridge="none", ridge_share=0.0, refine=1.0)
    found = pixels.score(settings)
    assert found.shape == (IMAGES, 3, 2)
    archive = bank.export(tmp_path / "bank.tar")
    for number, source in enumerate(bank.info.sources[:2]):
        rest = MemoryBank.import_file(archive, tmp_path / str(number)).remove([source])
        segmenter = Segmenter(rest, rest.patch_features(dtype="float32"), settings)
        sample = SourceImages(bank)[source]
        fitted = segmenter.fit(sample.image)
        height, width = fitted.content
        picture = fitted.image.permute(1, 2, 0).contiguous().numpy()
        truth = cv2.resize(sample.mask, (width, height), interpolation=cv2.INTER_NEAREST)
        said = segmenter.predict_fitted([fitted], [picture])[0].mask
        expected = [[int(((truth == c) & (said == c)).sum()) for c in (0, 1)]]
        expected += [
            [int((truth == c).sum()) for c in (0, 1)],
            [int(((said == c) & (truth >= 0)).sum()) for c in (0, 1)],
        ]
        assert np.abs(found[number] - expected).max() <= 0.002 * truth.size  # rounding at the edge of two classes
        assert found[number, 1].tolist() == expected[1]


def test_images_weigh_by_the_root_of_their_pixels_of_a_class(bank: MemoryBank, root: Path) -> None:
    _, best, pixels = pixels_of(bank, root)
    settings = replace(best, ridge="none", ridge_share=0.0)
    plain, weighed = pixels.score(settings), pixels.weighed(settings)
    for image in range(IMAGES):
        for c in range(2):
            there = [plain[i, 1, c] for i in range(IMAGES) if plain[i, 1, c]]
            by = plain[image, 1, c] or sum(there) / len(there)
            np.testing.assert_allclose(weighed[image, :, c], plain[image, :, c] / by**0.5)


def test_the_fit_takes_the_best_of_what_pixels_say(bank: MemoryBank, root: Path) -> None:
    """By trying everything, in turn; ties go to what is published."""
    found = fit_decoder(bank, GRID, SourceImages(bank), bank.patch_features(dtype="float32"))
    taken = {choice.setting: choice.value for choice in found.choices}
    assert list(taken) == ["k", "temperature", "class_share", "ridge", "gradient_weight", "refine"]
    assert found.facts is not None
    assert found.facts["images at pixels"] == IMAGES
    assert found.notes == ()
    trial, best, pixels = pixels_of(bank, root)

    def highest(tried: list[DecoderConfig]) -> DecoderConfig:
        return max(tried, key=lambda one: float(mean_iou_of(pixels.weighed(one).sum(0))))

    plain = {"ridge": "none", "ridge_share": 0.0, "ridge_penalty": DecoderConfig.ridge_penalty}
    asked = {"ridge": "token", "ridge_share": 0.5, "ridge_penalty": best.ridge_penalty}
    expected = highest([replace(best, refine=1.0, **one) for one in (plain, asked)])
    expected = highest([replace(expected, class_share=power) for power in GRID.class_share])
    expected = highest([replace(expected, **one) for one in (plain, asked)])
    expected = highest([replace(expected, gradient_weight=a) for a in (0.5, 0.3)])
    expected = highest([replace(expected, refine=strength) for strength in (0.0, 1.0)])
    assert found.decoder == expected
    assert (found.decoder.class_share, found.decoder.refine) == (taken["class_share"], taken["refine"])
    for name, settings in (("published", trial.published_vote), ("fitted", expected)):
        counts = pixels.score(settings).sum(0)
        iou = counts[0] / (counts[1] + counts[2] - counts[0])
        assert found.facts[name] == pytest.approx(iou.mean(), abs=1e-9)
    assert found.confidence is not None


def test_without_the_images_rows_alone_are_looked_at(bank: MemoryBank, tmp_path: Path) -> None:
    lost = DataConfig(root=str(folder_tree(tmp_path / "other")), split="train")
    copy = MemoryBank.import_file(bank.export(tmp_path / "bank.tar"), tmp_path / "copy")
    images = SourceImages(copy, lost)
    images._places = images._places[:1]
    found = fit_decoder(copy, GRID, images, copy.patch_features(dtype="float32"))
    assert any("fitted on rows alone, for 0 of the images" in note for note in found.notes)
    assert found.decoder.refine == 1.0


def test_command(
    bank: MemoryBank, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    copy = MemoryBank.import_file(bank.export(tmp_path / "bank.tar"), tmp_path / "copy").path
    assert main(["bank", "fit", "--bank", str(copy)]) == 0
    out = capsys.readouterr().out
    assert f"on pixels of {IMAGES} of its images by other images" in out
    assert "refine" in out
    caplog.set_level(logging.WARNING)
    assert main(["bank", "fit", "--bank", str(copy), "--backbone.weights", str(tmp_path / "none.safetensors")]) == 0
    captured = capsys.readouterr()
    assert "fitted on its rows alone, for its backbone can't be had" in captured.err + caplog.text
    assert "of its rows, without edges, by other images" in captured.out
