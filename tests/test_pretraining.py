"""How the embedded backbone is made: patterns, scenes, crops, losses, training and what it leaves."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from fungi_seg import DataError, FungiSegError, load_backbone
from fungi_seg.cli import tool
from fungi_seg.commands.options import read_request
from fungi_seg.commands.table import Command
from fungi_seg.features import embedded
from fungi_seg.pretraining import PretrainConfig, Stage, Training, crops, pretrain, release, training
from fungi_seg.pretraining.canvas import KINDS, STREET, THINGS, TISSUE, UNKNOWN
from fungi_seg.pretraining.crops import Pairs, jitter, majority, pairs
from fungi_seg.pretraining.patterns import PATTERNS
from fungi_seg.pretraining.scenes import LAYOUTS, scene
from fungi_seg.pretraining.training import Learner

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
TINY = PretrainConfig(dim=24, depth=1, heads=2, stages=(Stage(32, 4, 2), Stage(48, 2, 2)), scenes=4)


# Patterns and scenes


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_stay_within_0_and_1(name: str) -> None:
    low, high = math.inf, -math.inf
    for seed in range(30):
        for height, width in ((17, 33), (64, 64), (7, 101), (50, 3), (1, 1)):
            field = PATTERNS[name](np.random.default_rng(seed), height, width)
            assert (field.shape, field.dtype) == ((height, width), np.float32)
            assert np.isfinite(field).all()
            low, high = min(low, field.min()), max(high, field.max())
    assert 0 <= low < 0.2
    assert 0.8 < high <= (1.05 if name == "windows" else 1)


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_depend_on_the_generator_alone(name: str) -> None:
    one, same, other = (PATTERNS[name](np.random.default_rng(seed), 40, 50) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.05


def test_scenes_are_the_same_every_time() -> None:
    images = [scene(0, number, 48, 64)[0] for number in range(6)]
    for number, image in enumerate(images):
        again, _ = scene(0, number, 48, 64)
        np.testing.assert_array_equal(again, image)
    images.append(scene(1, 0, 48, 64)[0])
    assert len({image.tobytes() for image in images}) == 7


@pytest.mark.parametrize(("height", "width"), [(192, 256), (64, 48), (33, 71)])
def test_scenes_have_an_image_and_its_kinds(height: int, width: int) -> None:
    for number in range(8):
        image, kinds = scene(2, number, height, width)
        assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)
        assert (kinds.shape, kinds.dtype) == ((height, width), np.uint8)
        assert np.isin(kinds, [*range(len(KINDS)), UNKNOWN]).all()
        assert image.std() > 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_paint_their_own_kinds(layout: str) -> None:
    own = {"street": STREET, "objects": (*STREET, *THINGS), "leaves": tuple(PATTERNS), "tissue": TISSUE}[layout]
    seen: set[str] = set()
    for seed in range(24):
        painted = LAYOUTS[layout][0](np.random.default_rng(seed), 96, 128)
        assert painted.image.dtype == np.float32
        seen |= {KINDS[index] for index in np.unique(painted.kinds) if index != UNKNOWN}
    assert seen <= set(own)
    missing = set(own) - seen
    assert missing <= {"road", "pavement", "fence", "cycle", "pole", "sign"} if layout == "objects" else not missing


def test_all_layouts_come_up() -> None:
    assert sum(share for _, share in LAYOUTS.values()) == pytest.approx(1)
    tissue, patterns = {KINDS.index(name) for name in TISSUE}, {KINDS.index(name) for name in PATTERNS}
    seen = [set(np.unique(scene(0, number, 48, 64)[1])) for number in range(40)]
    assert any(kinds <= tissue for kinds in seen)
    assert any(kinds <= patterns for kinds in seen)
    assert any(KINDS.index("road") in kinds for kinds in seen)
    assert any(kinds & {KINDS.index(name) for name in ("animal", "furniture", "machine", "plant")} for kinds in seen)


# Crops


def naive_majority(label: np.ndarray, g: int) -> np.ndarray:
    found = np.full((g, g), -1)
    side = len(label) // g
    for row in range(g):
        for column in range(g):
            cell = label[row * side : (row + 1) * side, column * side : (column + 1) * side].ravel().tolist()
            kind, count = Counter(cell).most_common(1)[0]
            if kind != UNKNOWN and 2 * count > len(cell):
                found[row, column] = kind
    return found


def test_majority() -> None:
    rng = np.random.default_rng(0)
    seen: Counter[bool] = Counter()
    for g, side in ((4, 4), (3, 5), (8, 2), (1, 6)):
        for _ in range(20):
            label = rng.choice(np.array([0, 7, 30, UNKNOWN], np.uint8), (g * side, g * side), p=[0.6, 0.2, 0.05, 0.15])
            found = majority(label, g)
            np.testing.assert_array_equal(found, naive_majority(label, g))
            seen.update((found < 0).ravel().tolist())
    assert min(seen[True], seen[False]) > 20


def test_half_a_patch_is_no_majority() -> None:
    label = np.array([[1, 1, 5, 5], [2, 2, 5, UNKNOWN], [UNKNOWN, UNKNOWN, 3, 4], [UNKNOWN, 1, 4, 3]], np.uint8)
    np.testing.assert_array_equal(majority(label, 2), [[-1, 5], [-1, -1]])


REGION = 48


def map_picture() -> crops.Picture:
    """192×256; red is the column, green the row, and the kind is the number of the square of 48 pixels."""
    y, x = np.mgrid[:192, :256].astype(np.uint8)
    return np.dstack([x, y, np.zeros_like(x)]), (y // REGION * 10 + x // REGION).astype(np.uint8)


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, int], Pairs]:
    """Pairs of crops of the map, colours as they are."""
    monkeypatch.setattr(crops, "jitter", lambda images, rng: images)

    def cut(count: int, size: int, patch: int) -> Pairs:
        return pairs([map_picture()] * count, size, patch, np.random.default_rng(size))

    return cut


def at_centres(images: Tensor, g: int) -> Tensor:
    """`[B, g, g, 2]` column and row in the picture that the middle of each patch shows, in pixels."""
    steps = (torch.arange(g) + 0.5) / g * 2 - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack((x, y), -1).expand(len(images), g, g, 2)
    return F.grid_sample(images, grid, align_corners=False)[:, :2].permute(0, 2, 3, 1) * 255


@pytest.mark.parametrize(("size", "patch"), [(64, 8), (96, 8), (160, 8), (64, 16)])
def test_where_a_patch_lies_in_the_other_crop(maps: Callable[..., Pairs], size: int, patch: int) -> None:
    """The second crop, sampled there, shows the place in the picture that the first crop's patch shows."""
    count, g = 40, size // patch
    batch = maps(count, size, patch)
    assert (batch.images.shape, batch.images.dtype) == ((2 * count, 3, size, size), torch.float32)
    assert (batch.where.shape, batch.where.dtype) == ((count, g, g, 2), torch.float32)
    first = at_centres(batch.images[:count], g)
    second = F.grid_sample(batch.images[count:], batch.where, align_corners=False)[:, :2].permute(0, 2, 3, 1) * 255
    inside = (batch.where.abs() < 1 - 4 / size).all(-1)
    assert not inside.all()
    assert (first - second)[inside].abs().max() < 1.2  # colours are rounded, twice
    flips = [crop[:, 0, -1, 0] < crop[:, 0, 0, 0] for crop in at_centres(batch.images, g).split(count)]
    for one in (True, False):
        for other in (True, False):
            chosen = (flips[0] == one) & (flips[1] == other)
            assert inside[chosen].sum() > 20
            assert (first - second)[chosen][inside[chosen]].mean(0).abs().max() < 0.25
    assert torch.equal(batch.where[:, 0, -1, 0] < batch.where[:, 0, 0, 0], flips[0] != flips[1])
    assert (batch.where[:, -1, 0, 1] > batch.where[:, 0, 0, 1]).all()


def test_places_outside_are_outside(maps: Callable[..., Pairs]) -> None:
    """Beyond −1..1 the picture goes on at the second crop's scale."""
    batch = maps(40, 64, 8)
    first, second = at_centres(batch.images, 8).split(40)
    scale = (second[:, :, -1, 0] - second[:, :, 0, 0])[:, :1] / (7 / 8 * 2)  # pixels of the picture a unit of `where`
    middle = (second[:, :, -1, 0] + second[:, :, 0, 0])[:, :1] / 2
    expected = (first[..., 0] - middle[..., None]) / scale[..., None]
    assert (batch.where[..., 0].abs() > 1).any()
    torch.testing.assert_close(batch.where[..., 0], expected, atol=0.06, rtol=0.02)


def test_kinds_are_those_of_the_places_shown(maps: Callable[..., Pairs]) -> None:
    """In both crops, flipped or not: where a patch lies within one square of the map, its kind is that square's."""
    batch = maps(20, 64, 8)
    assert (batch.kinds.shape, batch.kinds.dtype) == ((40, 8, 8), torch.int64)
    corners = batch.images[:, :2].unflatten(-1, (8, 8)).unflatten(-3, (8, 8)) * 255  # [40, 2, 8, 8 pixels, 8, 8 pixels]
    low, high = corners.amin((3, 5)) // REGION, corners.amax((3, 5)) // REGION
    within = (low == high).all(1)
    assert within.float().mean() > 0.3
    torch.testing.assert_close(batch.kinds[within], (low[:, 1] * 10 + low[:, 0]).long()[within])
    assert batch.kinds.min() == -1  # at corners of four squares none has a majority


def test_unknown_kinds() -> None:
    image, kinds = map_picture()
    batch = pairs([(image, np.full_like(kinds, UNKNOWN)), (image, kinds)], 64, 8, np.random.default_rng(0))
    assert (batch.kinds[[0, 2]] == -1).all()
    assert (batch.kinds[[1, 3]] >= 0).float().mean() > 0.5


@pytest.mark.parametrize(("height", "width"), [(40, 300), (300, 40), (32, 32), (20, 25)])
def test_pictures_smaller_than_a_crop(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    batch = pairs([(image, np.zeros((height, width), np.uint8))] * 6, 64, 8, np.random.default_rng(0))
    assert batch.images.shape == (12, 3, 64, 64)
    assert (batch.kinds == 0).all()
    assert batch.where.isfinite().all()


def test_pairs_depend_on_the_generator_alone() -> None:
    one, same, other = (pairs([map_picture()] * 2, 64, 8, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.where, same.where)
    assert not torch.equal(one.where, other.where)


def test_jitter() -> None:
    """In 0..1, by the generator given and no other, an own draw for each image."""
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = image.expand(24, 3, 16, 16).clone()
    torch.manual_seed(1)
    one = jitter(images, np.random.default_rng(3))
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert torch.equal(jitter(images, np.random.default_rng(3)), one)
    assert not torch.equal(jitter(images, np.random.default_rng(4)), one)
    assert torch.equal(images, image.expand(24, 3, 16, 16))
    assert one.min() >= 0
    assert one.max() <= 1
    assert one.dtype == torch.float32
    assert len({changed.numpy().tobytes() for changed in one}) > 15
    assert 0.02 < (one - images).abs().mean() < 0.3


def test_jitter_of_extremes() -> None:
    for value in (0.0, 1.0):
        changed = jitter(torch.full((50, 3, 4, 4), value), np.random.default_rng(0))
        assert changed.min() >= 0
        assert changed.max() <= 1


# The loss that asks for the same place


def naive_same_place(learner: Learner, patches: Tensor, batch: Pairs, half: int, g: int) -> float:
    """Each patch of a first crop that lies inside the second, one by one."""
    anchors = [
        (i, row, column)
        for i in range(half)
        for row in range(g)
        for column in range(g)
        if all(abs(float(side)) < 1 - 1 / g for side in batch.where[i, row, column])
    ]
    if len(anchors) > 1536:
        anchors = anchors[:: math.ceil(len(anchors) / 1536)]
    found = []
    for i, row, column in anchors:
        x, y = ((float(side) + 1) / 2 * g - 0.5 for side in batch.where[i, row, column])
        left, top = math.floor(x), math.floor(y)
        value = torch.zeros(patches.shape[-1])
        for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            share = (1 - abs(r - y)) * (1 - abs(c - x))
            if share > 1e-12:
                value = value + share * patches[half + i, r, c]
        found.append(value)
    a = F.normalize(learner.place(torch.stack([patches[i, r, c] for i, r, c in anchors])), dim=-1)
    b = F.normalize(learner.place(torch.stack(found)), dim=-1)
    similar = (a @ b.T / learner.config.temperature).detach().double().numpy()
    wanted = [batch.where[place].tolist() for place in anchors]
    kinds = [int(batch.kinds[place]) for place in anchors]
    kept = np.ones((len(anchors), len(anchors)), bool)
    for p, (i, *_) in enumerate(anchors):
        for q, (j, *_) in enumerate(anchors):
            near = math.dist(wanted[p], wanted[q]) < 4 / g
            if p != q and i == j and (near or (kinds[p] == kinds[q] and kinds[p] >= 0)):
                kept[p, q] = False
    exponents = np.where(kept, np.exp(similar), 0)
    right = np.diag(exponents)
    return float((-np.log(right / exponents.sum(1)).mean() - np.log(right / exponents.sum(0)).mean()) / 2)


@pytest.mark.parametrize(("half", "g", "spread"), [(3, 4, 1.4), (5, 6, 1.2), (2, 8, 2.5), (40, 8, 0.8)])
def test_same_place_is_the_naive_one(half: int, g: int, spread: float) -> None:
    """Near or alike patches of the same image are no negatives; of the last case every second patch counts."""
    generator = torch.Generator().manual_seed(g)
    torch.manual_seed(0)
    learner = Learner(TINY)
    patches = torch.randn(2 * half, g, g, 24, generator=generator)
    where = (torch.rand(half, g, g, 2, generator=generator) * 2 - 1) * spread
    kinds = torch.randint(-1, 3, (2 * half, g, g), generator=generator)
    batch = Pairs(torch.zeros(2 * half, 3, 8, 8), kinds, where)
    found = learner._same_place(patches, batch, half, g).item()
    assert found == pytest.approx(naive_same_place(learner, patches, batch, half, g), abs=2e-3)


def test_masked_pairs_are_no_negatives() -> None:
    """Of one image, three places far from each other; the loss looks at pairs of other kinds alone."""
    torch.manual_seed(0)
    learner, g = Learner(TINY), 8
    where = torch.full((1, g, g, 2), 3.0)
    for column, place in enumerate([(-0.8, -0.8), (0.8, 0.8), (0.8, -0.8)]):
        where[0, 0, column] = torch.tensor(place)
    patches = torch.randn(2, g, g, 24)

    def loss(*kinds: int) -> float:
        shown = torch.full((2, g, g), -1)
        shown[0, 0, :3] = torch.tensor(kinds)
        return learner._same_place(patches, Pairs(torch.zeros(2, 3, 64, 64), shown, where), 1, g).item()

    assert loss(4, 4, 4) == pytest.approx(0, abs=1e-5)
    assert loss(4, 5, 6) == pytest.approx(loss(-1, -1, -1))  # unknown is no kind in common
    assert 0 < loss(4, 4, 6) < loss(4, 5, 6)
    where[0, 0, 1] = torch.tensor((-0.6, -0.7))
    assert loss(4, 5, 6) == pytest.approx(loss(4, 4, 6))


def test_crops_without_overlap_or_kinds_teach_nothing() -> None:
    learner, g = Learner(TINY), 4
    outside = Pairs(torch.rand(4, 3, 32, 32), torch.full((4, g, g), -1), torch.full((2, g, g, 2), 3.0))
    losses = learner.losses(torch.randn(4, 1 + g * g, 24, requires_grad=True), outside)
    assert losses["place"].item() == losses["kind"].item() == 0
    assert all(loss.isfinite() for loss in losses.values())


# Training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ()}, r"recipe\.stages has no stage"),
        ({"stages": (Stage(36, 4, 2),)}, r"recipe\.stages has .*size=36.*a multiple of the patch \(8\)"),
        ({"stages": (Stage(24, 4, 2),)}, r"at least four patches"),
        ({"stages": (Stage(32, 1, 2),)}, r"a batch of at least 2"),
        ({"stages": (Stage(32, 4, 0),)}, r"steps=0.*and a step"),
        ({"patch": 5, "stages": (Stage(40, 4, 2),)}, r"recipe\.patch is 5.*must be even"),
        ({"heads": 5}, r"recipe\.heads 5; .*the width a multiple of the heads"),
        ({"scenes": 0}, r"recipe\.scenes is 0"),
        ({"photo_share": 1.0}, r"recipe\.photo_share 1\.0.*below 1"),
        ({"masked": -0.1}, r"recipe\.masked -0\.1"),
    ],
)
def test_impossible_recipes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        replace(TINY, **changes)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(content)
    with pytest.raises(FungiSegError, match=r"checkpoint\.safetensors: not a checkpoint, or a damaged one"):
        run(TINY, tmp_path / "checkpoint.safetensors")


def state_of(trained: Training) -> dict[str, Tensor]:
    return trained.learner.state_dict()


def run(config: PretrainConfig, checkpoint: Path, photos: list[Path] | None = None, **options: Any) -> Training:
    return pretrain(config, photos or [], checkpoint, CPU, 1, show=False, **options)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Path]:
    """Four steps of the tiny recipe in one go."""
    checkpoint = tmp_path_factory.mktemp("straight") / "checkpoint.safetensors"
    return run(TINY, checkpoint), checkpoint


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """End the training in the step after so many."""
    done = []
    learn = training._learn

    def stop(*arguments: Any) -> dict[str, float]:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(1)
        return learn(*arguments)

    monkeypatch.setattr(training, "_learn", stop)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_interrupted_training_goes_on_bit_for_bit(
    straight: tuple[Training, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Within a stage and between two: weights and the optimiser's state are those of a training in one go."""
    with monkeypatch.context() as patched:
        interrupt(patched, after)
        with pytest.raises(KeyboardInterrupt):
            run(TINY, tmp_path / "checkpoint.safetensors", save_every=1)
    half = load_file(tmp_path / "checkpoint.safetensors")
    trained = run(TINY, tmp_path / "checkpoint.safetensors", save_every=1)
    assert trained.step == 4
    assert trained.sums == straight[0].sums
    assert trained.optimiser.param_groups[0]["lr"] == training._rate(TINY, 3)
    expected = load_file(straight[1])
    found = load_file(tmp_path / "checkpoint.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(half["learner.backbone.pos_embed"], expected["learner.backbone.pos_embed"])


def test_training_depends_on_the_seed_alone(straight: tuple[Training, Path], tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = run(TINY, tmp_path / "again.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    expected = state_of(straight[0])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state_of(again).items())
    other = run(replace(TINY, seed=1), tmp_path / "other.safetensors")
    assert not torch.equal(state_of(other)["backbone.pos_embed"], expected["backbone.pos_embed"])


def test_every_weight_is_trained(straight: tuple[Training, Path]) -> None:
    began = state_of(Training(TINY, CPU))
    same = [name for name, tensor in state_of(straight[0]).items() if torch.equal(tensor, began[name])]
    assert same == []
    assert all(tensor.isfinite().all() for tensor in state_of(straight[0]).values())


def test_a_finished_training_is_left_alone(straight: tuple[Training, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = straight[1].read_bytes()
    interrupt(monkeypatch, 0)
    again = run(TINY, straight[1])
    assert straight[1].read_bytes() == before
    assert (again.step, again.seconds, again.log) == (4, straight[0].seconds, straight[0].log)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rate": 1e-4}, "rate"),
        ({"seed": 2, "kinds": 0.5}, "kinds, seed"),
        ({"stages": (Stage(32, 4, 2), Stage(48, 2, 3))}, "stages"),
        ({"scenes": 5}, "scenes"),
        ({"dim": 48}, "dim"),
    ],
)
def test_going_on_with_another_recipe(straight: tuple[Training, Path], changes: dict[str, Any], named: str) -> None:
    before = straight[1].read_bytes()
    message = rf"checkpoint\.safetensors: was begun with another {named}; go on with the same settings, or name another"
    with pytest.raises(FungiSegError, match=message):
        run(replace(TINY, **changes), straight[1])
    assert straight[1].read_bytes() == before


def test_checkpoint_tells_its_recipe(straight: tuple[Training, Path]) -> None:
    with safe_open(straight[1], "pt") as file:
        told = json.loads(file.metadata()["run"])
    assert told["step"] == 4
    assert told["config"]["stages"][1] == {"size": 48, "batch": 2, "steps": 2}
    assert told["seconds"] == straight[0].seconds > 0


def test_losses_fall_and_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over all losses of the last steps is below that of the first; a line of the log is their mean."""
    seen: list[dict[str, float]] = []
    learn = training._learn

    def remember(*arguments: Any) -> dict[str, float]:
        seen.append(learn(*arguments))
        return seen[-1]

    monkeypatch.setattr(training, "_learn", remember)
    monkeypatch.setattr(training, "LOG_EVERY", 10)
    trained = run(replace(TINY, stages=(Stage(32, 8, 25),), rate=3e-3), tmp_path / "checkpoint.safetensors")
    assert set(seen[0]) == {"place", "image", "look", "kind"}
    totals = [sum(losses.values()) for losses in seen]
    assert np.mean(totals[-6:]) < np.mean(totals[:6]) - 0.3
    assert [line["step"] for line in trained.log] == [10, 20]
    for number, line in enumerate(trained.log):
        for name in seen[0]:
            mean = np.mean([losses[name] for losses in seen[10 * number : 10 * number + 10]])
            assert line[name] == pytest.approx(mean, abs=1e-3)


def test_rate_rises_and_falls() -> None:
    config = replace(TINY, stages=(Stage(32, 4, 100),), rate=0.01)
    rates = [training._rate(config, step) for step in range(100)]
    assert rates.index(max(rates)) in (4, 5)
    assert max(rates) == pytest.approx(0.01)
    assert (np.diff(rates[:5]) > 0).all()
    assert (np.diff(rates[5:]) < 0).all()
    assert 0 < rates[-1] < 0.0003


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three grey pictures of one tone each."""
    paths = [tmp_path / f"{tone}.png" for tone in (60, 61, 62)]
    for path in paths:
        Image.fromarray(np.full((50, 70, 3), int(path.stem), np.uint8)).save(path)
    return paths


def test_photographs_are_mixed_in(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of each batch, without kinds; the rest are scenes."""
    monkeypatch.setattr(crops, "jitter", lambda images, rng: images)
    batches: list[Pairs] = []
    learn = training._learn

    def remember(trained: Training, forward: Any, batch: tuple[Pairs, Tensor]) -> dict[str, float]:
        batches.append(batch[0])
        return learn(trained, forward, batch)

    monkeypatch.setattr(training, "_learn", remember)
    run(replace(TINY, photo_share=0.5), tmp_path / "checkpoint.safetensors", photos)
    assert [len(batch.images) for batch in batches] == [8, 8, 4, 4]
    for batch in batches:
        count = len(batch.images) // 2
        tones = batch.images.mean((1, 2, 3)) * 255
        plain = batch.images.std((1, 2, 3)) < 1e-4
        assert plain.reshape(2, count).sum(1).tolist() == [count // 2, count // 2]
        assert torch.isin(tones[plain].round(), torch.tensor([60.0, 61.0, 62.0])).all()
        assert (batch.kinds[plain] == -1).all()
        assert (batch.kinds[~plain] >= 0).any()


def test_patches_of_the_first_crops_are_masked() -> None:
    generated = [scene(0, number, 64, 64) for number in range(3)]
    shares = []
    for step in range(2):
        batch, masked = training._batch(replace(TINY, masked=0.6, stages=(Stage(64, 30, 2),)), step, generated, [])
        assert masked.shape == batch.kinds.shape == (60, 8, 8)
        assert not masked[30:].any()
        shares.append(masked[:30].float().mean((1, 2)))
    assert 0.2 < float(torch.cat(shares).mean()) < 0.4
    assert float(torch.cat(shares).max()) < 0.85
    assert not torch.equal(*shares)


def test_masked_patches_are_not_seen() -> None:
    torch.manual_seed(0)
    learner = Learner(TINY)
    images, masked = torch.rand(2, 3, 32, 32), torch.zeros(2, 4, 4, dtype=torch.bool)
    masked[0, 1, 2] = True
    changed = images.clone()
    changed[0, :, 8:16, 16:24] = 0.1
    with torch.no_grad():
        torch.testing.assert_close(learner.tokens(changed, masked), learner.tokens(images, masked))
        assert not torch.allclose(learner.tokens(changed, masked & False), learner.tokens(images, masked & False))


def test_an_unreadable_photograph(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"photo\.jpg: can't be read as an image"):
        run(TINY, tmp_path / "checkpoint.safetensors", [tmp_path / "photo.jpg"])
    assert not (tmp_path / "checkpoint.safetensors").exists()


# What a training leaves


def test_released_weights_are_the_backbone(straight: tuple[Training, Path], tmp_path: Path) -> None:
    """To the precision of float16, under timm's names."""
    weights, digest = release(straight[0], 0, "none", CPU, tmp_path)
    assert weights == tmp_path / "vit_embedded.safetensors"
    assert digest == hashlib.sha256(weights.read_bytes()).hexdigest()
    kept = load_file(weights)
    assert {tensor.dtype for tensor in kept.values()} == {torch.float16}
    assert kept.keys() == straight[0].learner.backbone.state_dict().keys()
    backbone = load_backbone("mine", weights, "cpu", "float32", TINY.model_args, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (backbone.dim, backbone.patch_size, backbone.prefix_tokens) == (24, (8, 8), 1)
    images = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    learner = straight[0].learner
    with torch.no_grad():
        expected = learner.tokens(images, torch.zeros(2, 6, 8, dtype=torch.bool))
    torch.testing.assert_close(backbone.tokens(images), expected, atol=1e-2, rtol=1e-2)
    assert (backbone.tokens(images) - expected).abs().mean() < 1e-3


def test_model_card(straight: tuple[Training, Path], tmp_path: Path) -> None:
    trained = Training(replace(TINY, seed=41, scenes=1234, photo_share=0.25), CPU)
    trained.learner.load_state_dict(state_of(straight[0]))
    trained.seconds = 5400
    trained.log = [{"step": 50, "seconds": 3, "place": 1.5}, {"step": 100, "seconds": 6, "place": 0.75, "kind": 0.5}]
    _, digest = release(trained, 77, "somewhere, CC0", CPU, tmp_path / "new")
    card = (tmp_path / "new" / "README.md").read_text(encoding="utf-8")
    for told in (
        "# Model card: vit_embedded",
        "1234 scenes",
        "77 unlabelled photographs (somewhere, CC0), 25% of each batch",
        "4 steps, seed 41, in 1.50 hours on cpu",
        f"SHA-256 `{digest}`",
        "Apache-2.0",
        "place 0.75, kind 0.5",
        "embed_dim=24",
        '"masked": 0.4',
        torch.__version__,
    ):
        assert told in " ".join(card.split())
    assert all(f"{name} {share:.0%}" in " ".join(card.split()) for name, (_, share) in LAYOUTS.items())
    assert card.count("<!-- begin results -->") == card.count("<!-- end results -->") == 1
    assert card.index("<!-- begin results -->") < card.index("<!-- end results -->")


def test_model_card_without_photographs(straight: tuple[Training, Path], tmp_path: Path) -> None:
    release(straight[0], 0, "none", CPU, tmp_path)
    card = " ".join((tmp_path / "README.md").read_text(encoding="utf-8").split())
    assert "0 unlabelled photographs (none), 0% of each batch" in card
    assert "{" not in card.partition("## Settings")[0]


def test_release_where_it_cannot_be_written(straight: tuple[Training, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FungiSegError, match=r"vit_embedded\.safetensors: can't be written"):
        release(straight[0], 0, "none", CPU, tmp_path / "file")


# The tool


@pytest.fixture
def pretrain_embedded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the tool in this process: exit code, standard output, standard error."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    module = importlib.import_module("pretrain_embedded")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["pretrain_embedded.py", *map(str, arguments)])
        capsys.readouterr()
        code = tool(module.pretrain_embedded)
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


def test_tool(
    pretrain_embedded: Callable[..., Any], photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe, changed by options; the same command again trains nothing, another recipe is refused."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("pretrain_embedded: {about_photos: plain ones, recipe: {dim: 48, depth: 1, heads: 2, scenes: 4}}")
    stages = [{"size": 32, "batch": 4, "steps": 2}, {"size": 48, "batch": 2, "steps": 1}]
    out = tmp_path / "out"
    command = [recipe, "--out", out, "--photos", tmp_path, "--device=cpu", "--workers=1", "--save-every=1"]
    command += [f"--recipe.stages={json.dumps(stages)}", "--recipe.dim=24", "--recipe.photo_share", "0.5"]
    code, told, errors = pretrain_embedded(*command)
    assert code == 0, errors
    weights = out / "vit_embedded.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert f"{weights}: 0.0 MB, SHA-256 {digest}" in told
    assert "train: 3/3 steps" in errors
    assert {path.name for path in out.iterdir()} == {"README.md", "checkpoint.safetensors", "vit_embedded.safetensors"}
    card = " ".join((out / "README.md").read_text(encoding="utf-8").split())
    assert "3 unlabelled photographs (plain ones), 50% of each batch" in card
    assert f"3 steps, seed 0, in {0:.2f} hours on cpu" in card
    assert digest in card
    assert load_file(weights)["pos_embed"].shape == (1, 145, 24)
    interrupt(monkeypatch, 0)
    code, told, _ = pretrain_embedded(*command)
    assert code == 0
    assert digest in told
    code, _, errors = pretrain_embedded(*command, "--recipe.masked=0.1")
    assert code == 1
    assert "was begun with another masked" in errors


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--recipe.dimm=24"], 2, "unknown option --recipe.dimm; did you mean '--recipe.dim'"),
        (["--recipe.dim=wide"], 2, "recipe.dim"),
        (["--recipe.stages=[1]"], 2, "recipe.stages"),
        (["--photos=nowhere"], 1, "'nowhere': no such image, folder with images"),
    ],
)
def test_mistakes_with_the_tool(
    pretrain_embedded: Callable[..., Any], tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    found, _, errors = pretrain_embedded("--out", tmp_path / "out", *arguments)
    assert found == code
    assert message in errors
    assert not (tmp_path / "out").exists()


def test_shipped_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they train is what the package loads."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    function = importlib.import_module("pretrain_embedded").pretrain_embedded
    for name in ("pretrain_embedded", "pretrain_embedded_gpu"):
        given = read_request(Command("pretrain_embedded", function), ["--config", name, "--out", "somewhere"]).values
        recipe = given["recipe"]
        assert isinstance(recipe, PretrainConfig)
        assert embedded.MODEL_ARGS.items() <= recipe.model_args.items()
        assert all(stage.size % 16 == 0 for stage in recipe.stages)
        assert "CC0" in given["about_photos"]
