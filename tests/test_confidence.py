"""How sure classes are: learnt on a bank, asked of an image, written, and held against the truth."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import built
from PIL import Image
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from trees import folder_tree, scene

from fungi_seg import (
    Backbone,
    BankError,
    DataConfig,
    DecoderConfig,
    FungiSegError,
    InputConfig,
    MemoryBank,
    Segmentation,
    Segmenter,
    evaluate,
    open_dataset,
)
from fungi_seg.cli import main
from fungi_seg.commands.demo import NUCLEI
from fungi_seg.evaluation.reliability import BINS, KEPT, Reliability
from fungi_seg.images.pictures import HATCHING, STRIPES
from fungi_seg.segmentation import (
    Calibration,
    Grid,
    OverlayConfig,
    calibrate,
    changes_since_fit,
    decoder,
    fit_decoder,
    refine,
)
from fungi_seg.segmentation.confidence import LEVELS, Evidence, calibration_of, isotonic, logistic

GRID = Grid((0.3,), (5,), (0.05,), (0.0,), (("token", 1.0),), (1e-2,), (0.5,))
CALIBRATION = Calibration((0.4, 0.6, 1.0), (0.3, 0.8, 0.9), 0.5, "isotonic", {}, 9)


def evidence(curve: Callable[[np.ndarray], np.ndarray], count: int = 4000, images: int = 20) -> Evidence:
    """Rows whose class is right as often as `curve` has it of their score."""
    generator = np.random.default_rng(0)
    best = generator.uniform(0.2, 1, count)
    right = (generator.random(count) < curve(best)).astype(np.float64)
    image, nearest = generator.integers(0, images, count), generator.uniform(0.5, 1, count)
    return Evidence(best, right, generator.uniform(0.1, 2, count), image, nearest)


# Learning it


def test_isotonic_regression_is_that_of_scikit_learn() -> None:
    found = evidence(lambda s: s**2, 32 * 50)
    best = np.repeat(np.linspace(0.1, 0.9, 32).round(5), 50)  # each bin is one score
    own = replace(found, best=best)
    scores, accuracies = isotonic(own)
    np.testing.assert_allclose(scores, np.unique(best))
    expected = IsotonicRegression().fit(best, own.right, sample_weight=own.weight)
    np.testing.assert_allclose(accuracies, expected.predict(np.unique(best)), atol=1e-9)


def test_logistic_regression_is_that_of_scikit_learn() -> None:
    found = evidence(lambda s: expit(2 * np.log(s / (1 - s + 1e-9)) - 1))
    odds = np.log(found.best / (1 - found.best))[:, None]
    weights = np.concatenate([found.weight * found.right, found.weight * (1 - found.right)])
    twice, named = np.concatenate([odds, odds]), np.repeat([1, 0], len(odds))
    expected = LogisticRegression(C=1e9, tol=1e-9).fit(twice, named, weights)
    scores, accuracies = logistic(found)
    inner = (scores > 0.2) & (scores < 1)
    line = np.log(scores[inner] / (1 - scores[inner]))[:, None]
    np.testing.assert_allclose(accuracies[inner], expected.predict_proba(line)[:, 1], atol=2e-4)


def test_logistic_regression_never_falls() -> None:
    assert (np.diff(logistic(evidence(lambda s: 1 - s))[1]) >= 0).all()


@pytest.mark.parametrize(
    ("curve", "method"),
    [(lambda s: expit(3 * np.log(s / (1.001 - s)) - 1), "logistic"), (lambda s: s > 0.7, "isotonic")],
)
def test_the_method_is_the_one_that_foretells_images_not_seen(
    curve: Callable[[np.ndarray], np.ndarray], method: str
) -> None:
    found = evidence(curve)
    made = calibration_of(found, 77)
    for name, learn in (("isotonic", isotonic), ("logistic", logistic), ("none", lambda _: ([0, 1], [0, 1]))):
        squares = 0.0
        for fold in range(5):
            there = found.image % 5 == fold
            rest = Evidence(*(values[~there] for values in vars(found).values()))
            foretold = np.interp(found.best[there], *learn(rest))
            squares += float((found.weight[there] * (foretold - found.right[there]) ** 2).sum())
        assert made.errors[name] == pytest.approx(squares / found.weight.sum())
    assert made.method == method
    assert made.least_similarity == pytest.approx(np.quantile(found.nearest, 0.001))
    assert made.rows == 77
    grid = np.linspace(0.25, 0.95, 50)
    assert np.abs(made(grid) - curve(grid)).mean() < 0.04


def test_scores_stay_where_nothing_foretells_better() -> None:
    found = evidence(lambda s: s, 60, 6)
    made = calibration_of(replace(found, right=found.best), 60)
    assert made.method == "none"
    assert made.errors["none"] == 0
    np.testing.assert_allclose(made(np.linspace(0, 1, 9)), np.linspace(0, 1, 9), atol=1e-6)


def test_a_calibration_is_kept_as_it_is() -> None:
    found = calibration_of(evidence(lambda s: s**2), 9)
    assert Calibration.of_record(json.loads(json.dumps(found.record())), "here") == found
    assert found.facts()["right at score"]["0.7"] == pytest.approx(0.49, abs=0.05)


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [0.6, 0.4, 1.0]},
        {"accuracies": [0.3, 0.2, 0.9]},
        {"accuracies": [0.3, 0.8, 1.9]},
        {"accuracies": [0.3]},
        {"scores": [], "accuracies": []},
        {"scores": ["a", "b", "c"]},
        {"least_similarity": float("nan")},
        {"colour": 3},
    ],
)
def test_a_calibration_that_cant_be_is_an_error(change: dict[str, object]) -> None:
    with pytest.raises(BankError, match=r"here: its calibration can't be used \(.*fungi-seg bank fit makes a new one"):
        Calibration.of_record(CALIBRATION.record() | change, "here")


def test_pixels_are_shifted_to_the_mean_of_the_patches() -> None:
    counts = np.zeros(LEVELS + 1, np.int64)
    counts[[20_000, 40_000, 60_000]] = 3, 5, 7
    for mean in (0.5, 0.7, 0.95):
        worth = CALIBRATION.levels(counts, mean)
        assert counts @ worth / counts.sum() == pytest.approx(mean, abs=1e-5)
        assert (np.diff(worth) >= 0).all()
        assert worth.min() > 0


# A bank and its images


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_tree(tmp_path_factory.mktemp("data") / "data", train=6)


def made(tree: Path, backbone: Backbone, out: Path, images: int = 6) -> MemoryBank:
    data = open_dataset(DataConfig(root=str(tree), split="train")).evenly(images)
    return built(data, backbone, out, input=InputConfig(None))


@pytest.fixture(scope="module")
def bank(tree: Path, tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    found = made(tree, tiny_backbone, tmp_path_factory.mktemp("bank") / "bank")
    return found.keep_decoder(fit_decoder(found, GRID).record())


@pytest.fixture(scope="module")
def segmenter(bank: MemoryBank, tiny_backbone: Backbone) -> Segmenter:
    return Segmenter(bank, bank.patch_features(backbone=tiny_backbone))


def by_hand(found: Segmentation) -> np.ndarray:
    """Confidence of each pixel in float64, from all scores at once and a search by bisection."""
    calibration = found.calibration
    assert calibration is not None
    assert found.unlike is not None
    height, width = found.mask.shape
    patches = calibration(found.patch_scores.numpy().max(0))
    wide = torch.from_numpy(patches)[None, None].double()
    mean = torch.nn.functional.interpolate(wide, (height, width), mode="bilinear").mean().item()
    raw = np.clip(calibration(found.scores.max(0)), 1e-4, 1 - 1e-4).astype(np.float64)
    odds = np.log(raw / (1 - raw))
    low, high = -30.0, 30.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if expit(odds + middle).mean() < mean else (low, middle)
    sure = expit(odds + low)
    for y in range(height):
        for x in range(width):
            if found.unlike[int(y * len(found.unlike) / height), int(x * found.unlike.shape[1] / width)]:
                sure[y, x] = 0
    return sure


@pytest.mark.parametrize("edges", [0.0, 1.0])
def test_confidence_is_that_of_a_loop(segmenter: Segmenter, edges: float) -> None:
    found = replace(segmenter.predict(scene(100)[0]), refine=edges)
    sure = found.confidence
    assert sure.dtype == np.float32
    assert 0 <= sure.min() <= sure.max() <= 1
    np.testing.assert_allclose(sure, by_hand(found), atol=2e-3)


@pytest.mark.parametrize("edges", [0.0, 1.0])
def test_strips_change_nothing(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, edges: float) -> None:
    found = replace(segmenter.predict(scene(100)[0]), refine=edges)
    whole, unknown = found.confidence, found.with_unknown(0.9).mask
    for module, name, value in ((decoder, "STRIP_VALUES", 500), (refine, "PIECE_VALUES", 9000)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("fungi_seg.rasters.colours.STRIP_PIXELS", 300)
    np.testing.assert_allclose(found.confidence, whole, atol=1e-4)
    assert (found.with_unknown(0.9).mask != unknown).mean() < 1e-3


def test_the_best_score_is_that_of_all_classes(segmenter: Segmenter) -> None:
    found = segmenter.predict(scene(100)[0])
    for edges in (0.0, 1.0):
        one = replace(found, refine=edges)
        np.testing.assert_allclose(one.levels / LEVELS, np.clip(one.scores.max(0), 0, 1), atol=1e-4)
    assert (found.levels == replace(found).levels).all()


def test_patches_unlike_the_bank_are_unknown_whatever_they_vote(
    segmenter: Segmenter, bank: MemoryBank, tiny_backbone: Backbone
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    image = scene(100)[0]
    image[:, 32:] = noise[:, 32:]
    found = segmenter.predict(image, unknown=0.0)
    features = bank.patch_features(backbone=tiny_backbone)(segmenter.fit(image).image[None])[0].numpy()
    keys, width = np.asarray(bank.rows.keys).astype(np.float64), bank.info.token_width
    weight = segmenter.decoder.gradient_weight
    assert weight is not None
    assert segmenter.calibration is not None
    cosines = 2 * (1 - weight) * features[:, :width] @ keys[:, :width].T
    cosines += 2 * weight * features[:, width:] @ keys[:, width:].T
    expected = (cosines.max(1) < segmenter.calibration.least_similarity).reshape(6, 8)
    assert expected[:, 5:].mean() > 0.8 > 0.2 > expected[:, :3].mean()
    np.testing.assert_array_equal(found.unlike, expected)
    np.testing.assert_array_equal(found.mask == 255, np.kron(expected, np.ones((8, 8), bool)))
    assert found.unknown_share == expected.mean()


def test_the_least_similarity_is_what_images_left_out_saw(bank: MemoryBank) -> None:
    keys, width, source = np.asarray(bank.rows.keys).astype(np.float64), bank.info.token_width, bank.rows.source
    cosines = 2 * 0.7 * keys[:, :width] @ keys[:, :width].T + 2 * 0.3 * keys[:, width:] @ keys[:, width:].T
    nearest = np.where(source[:, None] == source, -np.inf, cosines).max(1)
    found = calibrate(bank, DecoderConfig(k=5, temperature=0.05, gradient_weight=0.3))
    assert found.least_similarity == pytest.approx(np.quantile(nearest, 0.001), abs=1e-5)
    assert found.rows == len(bank)


def test_other_settings_can_be_calibrated(bank: MemoryBank, tiny_backbone: Backbone) -> None:
    features = bank.patch_features(backbone=tiny_backbone)
    for other in (DecoderConfig(), DecoderConfig(ridge="token", ridge_share=0.5, gradient_weight=0.0)):
        own = Segmenter(bank, features, other, calibration=calibrate(bank, other))
        own.check_calibrated()
        np.testing.assert_allclose(own.predict(scene(100)[0]).confidence.mean(), 0.8, atol=0.2)
    fitted = Segmenter(bank, features).calibration
    assert fitted is not None
    assert fitted == calibrate(bank, Segmenter(bank, features).decoder)


def test_threads_get_what_one_gets(segmenter: Segmenter) -> None:
    images = [scene(seed)[0] for seed in range(100, 104)]
    alone = [segmenter.predict(image, 0.8) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: segmenter.predict(image, 0.8), images * 3))
    for one, other in zip(alone * 3, together, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.confidence, other.confidence)


# Unknown pixels


def told(classes: int, unlike: bool = False) -> Segmentation:
    """Two patches, the left one sure of class 1, the right one torn between classes 0 and 1."""
    scores = torch.zeros(classes, 1, 2)
    scores[1, 0] = torch.tensor([1.0, 0.5])
    scores[0, 0, 1] = 0.5
    mask = np.ones((8, 16), np.uint8 if classes <= 256 else np.uint16)
    image, palette = np.full((8, 16, 3), 90, np.uint8), np.full((classes, 3), 200, np.uint8)
    names = tuple(f"class {i}" for i in range(classes))
    odd = np.array([[False, unlike]])
    return Segmentation(mask, scores, (1.0, 2.0), names, palette, image, 0.0, CALIBRATION, odd)


@pytest.mark.parametrize(
    ("classes", "void", "kind"), [(2, 255, "u1"), (255, 255, "u1"), (256, 65535, "u2"), (300, 65535, "u2")]
)
def test_unknown_pixels_get_the_void_value(classes: int, void: int, kind: str) -> None:
    found = told(classes)
    unsure = found.confidence < 0.8
    assert unsure[:, -1].all()
    assert not unsure[:, 0].any()
    unknown = found.with_unknown(0.8)
    assert (unknown.void, unknown.mask.dtype) == (void, np.dtype(kind))
    np.testing.assert_array_equal(unknown.mask, np.where(unsure, void, 1))
    assert (found.mask == 1).all()
    assert unknown.unknown_share == unsure.mean()


def test_a_palette_image_keeps_unknown_pixels(tmp_path: Path) -> None:
    """With the two colours of two classes alone, a PNG would have one bit a pixel."""
    unknown = told(2).with_unknown(0.8)
    unknown.palette_image().save(tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), unknown.mask)
    told(2).palette_image().save(tmp_path / "plain.png")
    assert len(Image.open(tmp_path / "plain.png").getpalette() or ()) < 768


def test_overlays_hatch_unknown_pixels() -> None:
    unknown = told(300).with_unknown(0.8)
    shown = np.asarray(unknown.overlay(OverlayConfig("fill")))
    there = unknown.mask == 65535
    assert (shown[~there] == 145).all()
    assert set(np.unique(shown[there])) == {round(90 * (1 - HATCHING) + grey * HATCHING) for grey in STRIPES}


def test_unlike_patches_are_unknown_at_any_confidence() -> None:
    found = told(2, unlike=True)
    np.testing.assert_array_equal(found.confidence == 0, np.arange(16)[None].repeat(8, 0) >= 8)
    np.testing.assert_array_equal(found.with_unknown(0).mask[0], np.repeat([1, 255], 8))
    assert told(2).with_unknown(0).unknown_share == 0


# Mistakes


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_unknown_is_0_to_1(segmenter: Segmenter, value: float) -> None:
    with pytest.raises(FungiSegError, match=re.escape(f"unknown is {value}; it must be 0 to 1")):
        segmenter.predict(scene(100)[0], value)
    with pytest.raises(FungiSegError, match="it must be 0 to 1"):
        told(2).with_unknown(value)


def test_banks_that_were_never_fitted_know_nothing(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """A bank from before confidence was kept opens, segments, and says what to do."""
    plain = made(tree, tiny_backbone, tmp_path / "bank")
    record = fit_decoder(plain, GRID).record()
    del record["confidence"]
    features = plain.patch_features(backbone=tiny_backbone)
    for old in (plain, MemoryBank.open(plain.keep_decoder(record).path)):
        segmenter = Segmenter(old, features)
        assert segmenter.calibration is None
        found = segmenter.predict(scene(100)[0])
        words = f"nothing is known of how sure its classes are; fungi-seg bank fit --bank {old.path} learns it"
        with pytest.raises(BankError, match=re.escape(words)):
            segmenter.predict(scene(100)[0], 0.5)
        for ask in (lambda found=found: found.confidence, lambda found=found: found.with_unknown(0.5)):
            with pytest.raises(FungiSegError, match="nothing is known of how sure classes are with these settings"):
                ask()
    report = evaluate(segmenter, open_dataset(DataConfig(root=str(tree), split="val")))
    assert report.confidence is None


def test_other_settings_than_the_fitted_ones_arent_calibrated(bank: MemoryBank, tiny_backbone: Backbone) -> None:
    features = bank.patch_features(backbone=tiny_backbone)
    fitted = Segmenter(bank, features).decoder
    Segmenter(bank, features, replace(fitted, refine=0.3)).check_calibrated()  # reliability is that of patches
    other = Segmenter(bank, features, replace(fitted, k=3))
    with pytest.raises(BankError, match=f"decoder.k is 3 in place of {fitted.k}; leave that out"):
        other.predict(scene(100)[0], 0.5)
    assert other.predict(scene(100)[0]).mask.shape == (48, 64)


def test_few_images_cant_be_calibrated(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    few = made(tree, tiny_backbone, tmp_path / "few", images=3)
    assert fit_decoder(few).confidence is None
    with pytest.raises(BankError, match="can't be learnt: the bank has 3 images, fewer than 5"):
        calibrate(few, DecoderConfig())


def test_a_damaged_calibration_is_named(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    plain = made(tree, tiny_backbone, tmp_path / "bank")
    record = fit_decoder(plain, GRID).record()
    record["confidence"]["scores"] = [3.0]
    with pytest.raises(BankError, match="its calibration can't be used"):
        Segmenter(plain.keep_decoder(record), plain.patch_features(backbone=tiny_backbone))


def test_changes_since_the_fit() -> None:
    done = [{"action": a} for a in ("build", "fit", "index", "append", "fit", "compact", "remove", "append")]
    assert changes_since_fit(done) == ["remove", "append"]
    assert changes_since_fit(done[:6]) == []


# Held against the truth


def test_calibration_error_and_risk_are_those_of_loops() -> None:
    generator = np.random.default_rng(1)
    counted = Reliability()
    pairs: list[tuple[float, bool]] = []
    for _ in range(3):
        truth, predicted = generator.integers(-1, 3, (40, 30)), generator.integers(0, 3, (40, 30))
        sure = (generator.integers(0, 1501, (40, 30)) / 1500).astype(np.float32)
        sure[:3] = 0
        counted.add(truth, predicted, sure)
        pairs += [
            (float(s), bool(t == p))
            for s, t, p in zip(sure.ravel(), truth.ravel(), predicted.ravel(), strict=True)
            if t >= 0
        ]
    facts = counted.facts()
    like, error = [pair for pair in pairs if pair[0] > 0], 0.0
    for place in range(BINS):
        inside = [pair for pair in like if min(int(pair[0] * 1500) // 100, BINS - 1) == place]
        assert facts["reliability"][place]["pixels"] == len(inside)
        error += abs(sum(s for s, _ in inside) - sum(r for _, r in inside)) / len(like)
    assert facts["expected_calibration_error"] == pytest.approx(error)
    kept, risk = [0.0], [0.0]
    for level in sorted({min(int(s * 1500), 1499) for s, _ in pairs}, reverse=True):
        among = [r for s, r in pairs if min(int(s * 1500), 1499) >= level]
        kept.append(len(among) / len(pairs))
        risk.append(1 - sum(among) / len(among))
    risk[0] = risk[1]
    area = sum((risk[i] + risk[i + 1]) / 2 * (kept[i + 1] - kept[i]) for i in range(len(kept) - 1))
    assert facts["area_under_risk_coverage"] == pytest.approx(area)
    for point, share in zip(facts["risk_coverage"], KEPT, strict=True):
        assert point["kept"] == share / 100
        assert point["error"] == pytest.approx(np.interp(share / 100, kept, risk))
    unlike = [r for s, r in pairs if s == 0]
    assert facts["unlike_the_bank"] == pytest.approx(len(unlike) / len(pairs))
    assert facts["wrong_where_unlike"] == pytest.approx(1 - sum(unlike) / len(unlike))


def test_confidence_that_is_right_has_no_error() -> None:
    counted = Reliability()
    truth = np.array([[0, 0, 0, 1]])
    counted.add(truth, np.zeros_like(truth), np.full((1, 4), 0.75, np.float32))
    assert counted.facts()["expected_calibration_error"] == 0
    assert [point["error"] for point in counted.facts()["risk_coverage"]] == [0.25] * len(KEPT)


# From the command line, with images that come with the package


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bank of six images, fitted."""
    out = tmp_path_factory.mktemp("nuclei") / "bank"
    listed = out.parent / "ids.txt"
    images = sorted((NUCLEI / "train" / "images").iterdir())[::4]
    listed.write_text("".join(f"{file.stem}\n" for file in images[:6]), encoding="utf-8")
    data = ["--data.root", str(NUCLEI), "--data.split", "train", "--data.file_list", str(listed)]
    assert main(["build", *data, "--backbone.name", "embedded", "--input.size", "64", "--out", str(out)]) == 0
    return out


def test_segment_writes_unknown_pixels_and_confidence(run: Run, nuclei: Path, tmp_path: Path) -> None:
    images = sorted((NUCLEI / "val" / "images").iterdir())[:2]
    street = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    Image.fromarray(street).save(tmp_path / "noise.png")
    options = ("--unknown", 0.9, "--confidence", "png,tiff", "--coco.file", tmp_path / "found.json")
    code, out, _ = run(
        "segment", *images, tmp_path / "noise.png", "--bank", nuclei, "--out", tmp_path / "out", *options
    )
    assert code == 0
    segmenter = Segmenter(nuclei)
    shares = []
    for path in (*images, tmp_path / "noise.png"):
        found = segmenter.predict(path)
        sure = found.confidence
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{path.stem}.png"))
        np.testing.assert_array_equal(mask, np.where((sure < 0.9) | (sure == 0), 255, found.mask))
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "confidence" / f"{path.stem}.tiff"), sure)
        coarse = np.asarray(Image.open(tmp_path / "out" / "confidence" / f"{path.stem}.png"))
        np.testing.assert_allclose(coarse / 255, sure, atol=0.5 / 255 + 1e-6)
        shares.append((mask == 255).mean())
    assert shares[2] == 1
    assert f"{100 * np.mean(shares):.1f} % of an image is unknown (255 in masks, hatched), which COCO results" in out
    entries = json.loads((tmp_path / "found.json").read_text())
    for number, path in enumerate(images, start=1):
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{path.stem}.png"))
        assert sum(e["area"] for e in entries if e["image_id"] == number) == (mask == 1).sum()
    assert all(entry["image_id"] != 3 for entry in entries)


def test_results_are_no_images_to_segment(run: Run, nuclei: Path, tmp_path: Path) -> None:
    Image.open(sorted((NUCLEI / "val" / "images").iterdir())[0]).save(tmp_path / "one.png")
    for _ in range(2):
        code, out, _ = run(
            "segment", tmp_path, "--bank", nuclei, "--out", tmp_path, "--confidence", "png", "--overwrite"
        )
        assert code == 0
        assert f"{tmp_path}: 1 images segmented; look" in out


def test_reports_say_what_confidence_is_worth(run: Run, nuclei: Path, tmp_path: Path) -> None:
    data = ("--data.root", NUCLEI, "--data.split", "val")
    options = ("--json", tmp_path / "r.json", "--markdown", tmp_path / "r.md")
    code, out, _ = run("evaluate", "--bank", nuclei, *data, *options)
    assert code == 0
    found = json.loads((tmp_path / "r.json").read_text())["confidence"]
    counted = Reliability()
    segmenter = Segmenter(nuclei)
    for sample in open_dataset(DataConfig(root=str(NUCLEI), split="val")):
        one = segmenter.predict(sample.image)
        counted.add(sample.mask, one.mask, one.confidence)
    expected = counted.facts()
    assert found["expected_calibration_error"] == pytest.approx(expected["expected_calibration_error"], abs=1e-5)
    assert found["area_under_risk_coverage"] == pytest.approx(expected["area_under_risk_coverage"], abs=1e-5)
    line = f"expected calibration error {100 * found['expected_calibration_error']:.2f} % (15 bins)"
    assert line in out
    assert line in (tmp_path / "r.md").read_text()
    assert "| most confident pixels kept % | wrong % |" in (tmp_path / "r.md").read_text()
    run("evaluate", "--bank", nuclei, *data, "--protocol", "native", "--json", tmp_path / "native.json")
    assert json.loads((tmp_path / "native.json").read_text())["confidence"] is None


def test_unknown_pixels_read_back_have_no_class(run: Run, nuclei: Path, tmp_path: Path) -> None:
    images = NUCLEI / "val" / "images"
    assert run("segment", images, "--bank", nuclei, "--out", tmp_path / "out", "--unknown", 0.9)[0] == 0
    data = ("--data.root", NUCLEI, "--data.split", "val")
    code, out, _ = run("evaluate", "--predictions", tmp_path / "out", *data)
    assert code == 0
    masks = [np.asarray(Image.open(file)) for file in (tmp_path / "out" / "masks").iterdir()]
    assert f"{sum(int((mask == 255).sum()) for mask in masks)} labelled pixels have no class in the predictions" in out


def test_inspect_shows_it(run: Run, nuclei: Path) -> None:
    code, out, _ = run("bank", "inspect", "--bank", nuclei, "--json", "-")
    assert code == 0
    kept = MemoryBank.open(nuclei).manifest.decoder
    assert kept is not None
    found = json.loads(out)["confidence"]
    assert found["least_similarity"] == kept["confidence"]["least_similarity"]
    assert list(found["right at score"]) == ["0.5", "0.7", "0.9"]


def test_a_bank_that_was_changed_since_is_remarked(run: Run, nuclei: Path, tmp_path: Path) -> None:
    copy = MemoryBank.import_file(MemoryBank.open(nuclei).export(tmp_path / "b.tar"), tmp_path / "bank")
    copy.remove(images=copy.info.sources[:1])
    image = sorted((NUCLEI / "val" / "images").iterdir())[0]
    code, _, err = run("segment", image, "--bank", copy.path, "--out", tmp_path / "out", "--unknown", 0.5)
    assert code == 0
    assert (
        "how sure classes are was learnt before the bank was changed (remove); fungi-seg bank fit learns it anew" in err
    )


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--unknown=1.5"], 2, "unknown is 1.5; it must be 0 to 1"),
        (["--unknown=-1"], 2, "unknown is -1.0; it must be 0 to 1"),
        (["--confidence=jpg"], 2, "confidence is 'jpg'; it must be one of png, tiff"),
        (["--unknown=0.5", "--decoder.k=7"], 1, "decoder.k is 7 in place of"),
        (["--confidence=png", "--decoder.temperature=0.3"], 1, "decoder.temperature is 0.3 in place of"),
    ],
)
def test_mistakes(run: Run, nuclei: Path, tmp_path: Path, options: list[str], code: int, words: str) -> None:
    image = sorted((NUCLEI / "val" / "images").iterdir())[0]
    found, _, err = run("segment", image, "--bank", nuclei, "--out", tmp_path / "out", *options)
    assert found == code
    assert words in err
    assert not (tmp_path / "out").exists()


# With real data


@pytest.mark.data
@pytest.mark.slow
def test_streets_are_unknown_to_nuclei_and_nuclei_are_not(real_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "bank"
    data = ["--data.root", str(real_data / "nuclei"), "--data.split", "train", "--data.layout", "folder"]
    size = ["--input.size", "[256,336]", "--bank.size", "60000"]
    assert main(["build", *data, "--backbone.name", "embedded", *size, "--out", str(out)]) == 0
    segmenter = Segmenter(out)
    shares = {}
    for name, void in (("camvid", 11), ("nuclei", 255)):
        images = open_dataset(DataConfig(layout="folder", root=str(real_data / name), split="val", void=void))
        shares[name] = np.mean([segmenter.predict(sample.image, 0.01).unknown_share for sample in images.evenly(40)])
    assert shares["camvid"] >= 0.95
    assert shares["nuclei"] <= 0.05
    assert asdict(segmenter.decoder)["refine"] == 1
