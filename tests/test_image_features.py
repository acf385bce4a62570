"""Features of whole images: the published vectors, gradients of the whole model by autograd, and what is refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import assert_same_rows
from PIL import Image
from torch import Tensor

from fungi_seg import Backbone, BackboneConfig, DataError, FungiSegError, load_backbone
from fungi_seg.features.objectives import KL, Dino, Objective, SimCLR, info_nce
from fungi_seg.features.projection import DenseProjection
from fungi_seg.features.settings import ImageFeatureConfig
from fungi_seg.features.views import CentreCrop, MultiCrop
from fungi_seg.features.whole import ImageFeatures, check_finite, make_objectives

FOUR = ("kl", "dino", "simclr", "deepcluster")
SMALL = ImageFeatureConfig(FOUR, support=8, clusters=4)


def picture(seed: int = 0, height: int = 40, width: int = 52) -> np.ndarray:
    """A smooth random image `[height, width, 3]` uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


PICTURES = [picture(seed) for seed in range(8)]


class Given:
    """Stands for views that a test hands over ready-made."""

    def __init__(self, count: int):
        self.count = count

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        raise AssertionError("ready-made views aren't cut")


def gradients(features: ImageFeatures, objective: Objective, views: Tensor) -> Tensor:
    """The part of `objective` for views `[B, V, 3, H, W]`."""
    return features.from_views([{objective.views: v} for v in views])[objective.name]


# The published vectors


@pytest.fixture
def published_gradients(published: dict[str, Tensor], published_backbone: Backbone) -> Callable[..., Tensor]:
    def compute(objective: Objective, views: Tensor) -> Tensor:
        features = ImageFeatures(published_backbone, None, [objective])
        features.projection = DenseProjection(published["projection"].view(32, 32, 33))
        return gradients(features, objective, views)

    return compute


@pytest.mark.parametrize("temperature", [1, 15])
def test_published_kl(
    published: dict[str, Tensor], published_gradients: Callable[..., Tensor], temperature: int
) -> None:
    name = f"kl_t{temperature}"
    objective = KL(Given(1), 32, 0, temperature=temperature, dim=24)
    objective.head.weight, objective.head.bias = published[f"{name}/head_weight"], published[f"{name}/head_bias"]
    found = published_gradients(objective, published[f"{name}/views"][:, None])
    assert_same_rows(found, F.normalize(published[f"{name}/projected_gradients"], dim=-1))


def test_published_dino(published: dict[str, Tensor], published_gradients: Callable[..., Tensor]) -> None:
    objective = Dino(Given(12), 32, 0, dim=40)
    for head, name in ((objective.student_head, "student"), (objective.teacher_head, "teacher")):
        head.weight, head.bias = published[f"dino/{name}_head_weight"], published[f"dino/{name}_head_bias"]
    found = published_gradients(objective, published["dino/views"])
    assert_same_rows(found, F.normalize(published["dino/projected_gradients"], dim=-1))


@pytest.mark.parametrize("code", ["paper", "library"])
def test_published_simclr(published: dict[str, Tensor], published_gradients: Callable[..., Tensor], code: str) -> None:
    objective = SimCLR(Given(9), 32, 0, dim=24, divide_all=code == "paper")
    objective.head.weight = published["simclr_image/head_weight"]
    objective.head.bias = published["simclr_image/head_bias"]
    objective.negatives = published["simclr_image/encoded_negatives"]
    found = published_gradients(objective, published["simclr_image/views"])
    assert_same_rows(found, F.normalize(published[f"simclr_image/projected_gradients_{code}"], dim=-1))


# Gradients of the whole model, sample by sample, by plain autograd


ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("vit_tiny_patch16_224", {}),
    "layer scale and registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 28, "embed_dim": 48, "num_heads": 3}),
    "mean, then norm": ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": True}),
    "norm, then mean": ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}),
    "no class token": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False, "fc_norm": False}),
    "rotary positions": ("vit_small_patch16_dinov3", {"embed_dim": 48, "num_heads": 3}),
}


def make_backbone(architecture: str) -> Backbone:
    name, arguments = ARCHITECTURES[architecture]
    size = {"img_size": 32, "embed_dim": 48, "num_heads": 3, "depth": 2, "dynamic_img_size": True, "num_classes": 0}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = timm.create_model(name, **(size | arguments))
        for module in model.modules():
            for key in ("gamma", "gamma_1", "gamma_2"):
                if isinstance(getattr(module, key, None), Tensor):
                    torch.nn.init.uniform_(getattr(module, key), 0.5, 1.5)
    return Backbone(model, BackboneConfig(name), torch.device("cpu"), torch.float32)


def dense_gradient(backbone: Backbone, objective: Objective, views: Tensor) -> Tensor:
    """The gradient of one sample's loss by weight and bias, `[d_out, d_in + 1]`, through the whole model."""
    model: Any = backbone.model
    for p in (backbone.target.weight, backbone.target.bias):
        p.requires_grad_(True)
    with torch.enable_grad():
        images = (views / 255 - torch.tensor(backbone.mean).view(3, 1, 1)) / torch.tensor(backbone.std).view(3, 1, 1)
        embeddings = model.forward_head(model.forward_features(images), pre_logits=True)
        loss = objective.loss(embeddings[None]).sum()
        weight, bias = torch.autograd.grad(loss, [backbone.target.weight, backbone.target.bias])
    for p in (backbone.target.weight, backbone.target.bias):
        p.requires_grad_(False)
    return torch.cat([weight, bias[:, None]], dim=1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_are_those_of_the_whole_model(architecture: str) -> None:
    backbone = make_backbone(architecture)
    side = 2 * backbone.patch_size[0]
    config = ImageFeatureConfig(
        FOUR, side=side, projection="dense", projection_dim=16, support=8, clusters=3, fast=True
    )
    features = ImageFeatures(backbone, config).fit(PICTURES)
    prepared = [features.prepare(image) for image in PICTURES[:3]]
    found = features.from_views(prepared)
    assert isinstance(features.projection, DenseProjection)
    signs = features.projection.matrix.float().flatten(1)
    for objective in features.objectives:
        dense = torch.stack([dense_gradient(backbone, objective, p[objective.views]).flatten() for p in prepared])
        assert_same_rows(found[objective.name], F.normalize(dense @ signs.T, dim=-1), 1e-3)
    model: Any = backbone.model
    whole = torch.cat([p[CentreCrop(side)] for p in prepared])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    pooled = model.forward_head(model.forward_features((whole / 255 - mean) / std), pre_logits=True)
    assert_same_rows(found["embedding"], F.normalize(pooled, dim=-1))
    assert_same_rows(backbone.embeddings(whole), pooled)


def test_factored_gradients_keep_the_angles_of_dense_ones(tiny_backbone: Backbone) -> None:
    """Both estimate the same inner products; with 4096 signs the estimates are close."""
    angles = []
    for kind in ("factored", "dense"):
        config = ImageFeatureConfig(("kl", "dino"), projection=kind, projection_dim=4096)
        features = ImageFeatures(tiny_backbone, config)
        dino = features.from_views([features.prepare(image) for image in PICTURES])["dino"]
        angles.append(dino @ dino.T)
    assert (angles[0] - angles[1]).abs().max() < 0.1


# What a feature depends on


@pytest.fixture(scope="module")
def features(tiny_backbone: Backbone) -> ImageFeatures:
    return ImageFeatures(tiny_backbone, SMALL).fit(PICTURES)


def test_parts_are_of_length_one_and_in_order(features: ImageFeatures) -> None:
    assert features.parts == ("embedding", *FOUR)
    assert features.dim == 5 * 24
    rows = features(PICTURES[:2])
    assert rows.shape == (2, 120)
    found = features.from_views([features.prepare(image) for image in PICTURES[:2]])
    for number, part in enumerate(features.parts):
        assert torch.equal(rows[:, 24 * number : 24 * (number + 1)], found[part])
        torch.testing.assert_close(found[part].norm(dim=-1), torch.ones(2))


def test_a_feature_does_not_depend_on_its_batch(features: ImageFeatures) -> None:
    together = features(PICTURES)
    alone = torch.cat([features([image]) for image in PICTURES])
    backwards = features(PICTURES[::-1]).flip(0)
    for other in (alone, backwards):
        for part in range(5):
            columns = slice(24 * part, 24 * (part + 1))
            assert F.cosine_similarity(together[:, columns], other[:, columns], dim=-1).min() > 0.9999


def test_the_seed_fixes_everything(tiny_backbone: Backbone, features: ImageFeatures) -> None:
    again = ImageFeatures(tiny_backbone, SMALL).fit(PICTURES)
    assert torch.equal(features(PICTURES[:2]), again(PICTURES[:2]))
    other = ImageFeatures(tiny_backbone, ImageFeatureConfig(FOUR, support=8, clusters=4, seed=1)).fit(PICTURES)
    ours, theirs = (f.prepare(PICTURES[0]) for f in (features, other))
    crops = features.objectives[1].views
    assert not torch.equal(ours[crops], theirs[crops])
    assert torch.equal(ours[CentreCrop(32)], theirs[CentreCrop(32)])
    assert torch.equal(features(PICTURES[:1])[:, :24], other(PICTURES[:1])[:, :24])


def test_crops_of_different_images_differ(features: ImageFeatures) -> None:
    """Images of one size, but each with its own windows."""
    ramp = np.tile(np.arange(52, dtype=np.uint8)[None, :, None], (40, 1, 3))
    shifted = ramp + 100
    crops = features.objectives[1].views
    first, second = (features.prepare(image)[crops].int() for image in (ramp, shifted))
    assert (first + 100 - second).abs().max() > 5


def test_a_part_does_not_depend_on_the_other_objectives(tiny_backbone: Backbone, features: ImageFeatures) -> None:
    everything = features.from_views([features.prepare(PICTURES[0])])
    sizes = {"simclr": {"support": 8}, "deepcluster": {"support": 8, "clusters": 4}}
    for name in FOUR:
        config = ImageFeatureConfig((name,), **sizes.get(name, {}))
        alone = ImageFeatures(tiny_backbone, config).fit(PICTURES)
        found = alone.from_views([alone.prepare(PICTURES[0])])
        torch.testing.assert_close(found[name], everything[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["embedding"], everything["embedding"], rtol=1e-4, atol=1e-5)


def count_views(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    forward = backbone._forward
    monkeypatch.setattr(backbone, "_forward", lambda images: (seen.append(len(images)), forward(images))[1])
    return seen


def test_objectives_share_a_pass_where_their_views_coincide(
    tiny_backbone: Backbone, features: ImageFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_views(tiny_backbone, monkeypatch)
    features(PICTURES[:2])
    assert sum(seen) == 2 * (1 + 12 + 49)  # embedding and KL share one view, DINO and DeepCluster twelve


def test_no_work_for_objectives_that_were_not_asked_for(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ImageFeatures(tiny_backbone, ImageFeatureConfig(()))
    seen = count_views(tiny_backbone, monkeypatch)
    rows = plain(PICTURES)
    assert (sum(seen), plain.dim, plain.needs_support) == (8, 24, False)
    torch.testing.assert_close(rows, ImageFeatures(tiny_backbone, ImageFeatureConfig(("kl",)))(PICTURES)[:, :24])


def test_fast_views_are_fewer(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """DINO and SimCLR look at the same crops: one pass of 12, and one view for embedding and KL."""
    kl, dino, simclr = make_objectives(ImageFeatureConfig(fast=True), tiny_backbone)
    assert (kl.views, dino.views, simclr.views) == (CentreCrop(32), MultiCrop(32), MultiCrop(32))
    fast = ImageFeatures(tiny_backbone, ImageFeatureConfig(fast=True, support=8)).fit(PICTURES)
    seen = count_views(tiny_backbone, monkeypatch)
    rows = fast(PICTURES[:2])
    assert sum(seen) == 2 * 13
    paper = ImageFeatures(tiny_backbone, ImageFeatureConfig(support=8)).fit(PICTURES)(PICTURES[:2])
    torch.testing.assert_close(rows[:, :72], paper[:, :72], rtol=1e-4, atol=1e-5)
    assert F.cosine_similarity(rows[:, 72:], paper[:, 72:], dim=-1).max() < 0.99


def test_images_of_any_kind_and_size(features: ImageFeatures, tmp_path: Path) -> None:
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png")
    kinds = [
        PICTURES[0],
        tmp_path / "a.png",
        Image.fromarray(PICTURES[0]),
        torch.from_numpy(PICTURES[0].copy()).permute(2, 0, 1),
    ]
    rows = features(kinds)
    assert (rows - rows[0]).abs().max() < 1e-5
    assert features([picture(1, 200, 30), picture(2, 9, 300), picture(3, 1, 1)]).shape == (3, 120)


def test_the_backbone_stays_as_it_was(tiny_backbone: Backbone, features: ImageFeatures) -> None:
    before = tiny_backbone.tokens(torch.zeros(1, 3, 32, 32))
    features(PICTURES[:1])
    assert torch.equal(tiny_backbone.tokens(torch.zeros(1, 3, 32, 32)), before)
    assert not any(p.requires_grad or p.grad is not None for p in tiny_backbone.model.parameters())
    assert [*tiny_backbone.target._forward_hooks.values()] == [tiny_backbone.at_target]
    assert [*tiny_backbone.last_block._forward_hooks.values()] == [tiny_backbone.at_last_block]


def test_features_under_inference_mode(features: ImageFeatures) -> None:
    with torch.inference_mode():
        inside = features(PICTURES[:2])
        made = ImageFeatures(features.backbone, SMALL).fit(PICTURES)
    torch.testing.assert_close(inside, features(PICTURES[:2]))
    torch.testing.assert_close(made(PICTURES[:2]), inside)


def test_bfloat16_features_are_close(tiny_weights: Path, features: ImageFeatures) -> None:
    from conftest import HALF, TINY

    half = load_backbone("tiny", tiny_weights, "cpu", "bfloat16", TINY, HALF, HALF)
    rows = ImageFeatures(half, SMALL, support=features.support)(PICTURES)
    assert F.cosine_similarity(rows[:, :24], features(PICTURES)[:, :24], dim=-1).min() > 0.99
    assert F.cosine_similarity(rows, features(PICTURES), dim=-1).mean() > 0.9


# The support set


def test_support_is_drawn_from_the_images_by_the_seed(tiny_backbone: Backbone) -> None:
    few = ImageFeatures(tiny_backbone, ImageFeatureConfig(("simclr",), support=3)).fit(PICTURES)
    chosen = np.random.default_rng(0).permutation(8)[:3]
    views = torch.stack([few.prepare(PICTURES[i])[few.objectives[0].views] for i in chosen])
    expected = tiny_backbone.embeddings(views.flatten(0, 1)).unflatten(0, (3, 49))
    assert few.support["simclr"].shape == (3, 49, 24)
    torch.testing.assert_close(few.support["simclr"].float(), expected, rtol=2e-3, atol=2e-3)


def test_support_of_another_instance(tiny_backbone: Backbone, features: ImageFeatures) -> None:
    assert features.support.keys() == {"simclr", "deepcluster"}
    other = ImageFeatures(tiny_backbone, SMALL, support=features.support)
    assert not other.needs_support
    assert torch.equal(other(PICTURES[:2]), features(PICTURES[:2]))


def test_fewer_images_than_the_support_set_takes(tiny_backbone: Backbone) -> None:
    small = ImageFeatures(tiny_backbone, ImageFeatureConfig(("simclr",))).fit(PICTURES[:2])
    assert len(small.support["simclr"]) == 2


def test_support_of_other_views(tiny_backbone: Backbone, features: ImageFeatures) -> None:
    with pytest.raises(FungiSegError, match=r"support of 'simclr' has shape \[8, 49, 24\]; it must be \[S, 12, 24\]"):
        ImageFeatures(tiny_backbone, ImageFeatureConfig(("simclr",), fast=True), support=features.support)


def test_an_image_that_cannot_be_used_is_named(features: ImageFeatures) -> None:
    with pytest.raises(FungiSegError, match=r"image 5: image has float values from .* to 3"):
        features([*PICTURES[:5], np.full((9, 9, 3), 3.0)], batch_size=2)
    with pytest.raises(FungiSegError, match="batch_size is 0; it must be at least 1"):
        features(PICTURES, batch_size=0)


def test_copies_share_the_frozen_backbone(features: ImageFeatures) -> None:
    assert copy.deepcopy(features).backbone is features.backbone


def test_no_images_no_features(features: ImageFeatures) -> None:
    assert features([]).shape == (0, 120)


def test_without_support(tiny_backbone: Backbone) -> None:
    waiting = ImageFeatures(tiny_backbone, SMALL)
    assert waiting.needs_support
    with pytest.raises(
        FungiSegError, match=r"is held against a support set, and has none yet; call ImageFeatures\.fit"
    ):
        waiting(PICTURES[:1])
    with pytest.raises(FungiSegError, match="images is empty; a support set needs training images"):
        waiting.fit([])


def test_bad_support_images_are_passed_over_when_asked(tiny_backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    images: list[Any] = [tmp_path / "broken.png", *PICTURES[:3]]
    config = ImageFeatureConfig(("simclr",), support=3)
    with pytest.raises(DataError, match=r"broken.png: can't be read as an image"):
        ImageFeatures(tiny_backbone, ImageFeatureConfig(("simclr",), support=4)).fit(images)
    passed = ImageFeatures(tiny_backbone, config).fit(images, skip_bad=True)
    assert len(passed.support["simclr"]) == 3


# An objective of one's own


class Agreement:
    """Views of an image should look alike."""

    name = "agreement"

    def __init__(self, views: Any):
        self.views = views

    def loss(self, embeddings: Tensor) -> Tensor:
        unit = F.normalize(embeddings, dim=-1)
        return -(unit @ unit.mT).mean((1, 2))


def test_an_objective_of_ones_own(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = MultiCrop(32)
    config = ImageFeatureConfig(projection="dense", projection_dim=16)
    own = ImageFeatures(tiny_backbone, config, [Agreement(crops), Dino(crops, 24, 0)])
    assert own.parts == ("embedding", "agreement", "dino")
    seen = count_views(tiny_backbone, monkeypatch)
    rows = own(PICTURES[:1])
    assert sum(seen) == 1 + 12
    assert isinstance(own.projection, DenseProjection)
    dense = dense_gradient(tiny_backbone, own.objectives[0], own.prepare(PICTURES[0])[crops]).flatten()
    expected = F.normalize(dense @ own.projection.matrix.float().flatten(1).T, dim=-1)
    assert_same_rows(rows[:, 24:40], expected[None], 1e-3)


def test_an_objective_may_leave_views_out(tiny_backbone: Backbone) -> None:
    class Globals(Agreement):
        def loss(self, embeddings: Tensor) -> Tensor:
            return super().loss(embeddings[:, :2])

    some = ImageFeatures(tiny_backbone, None, [Globals(MultiCrop(32))])
    assert torch.isfinite(some(PICTURES[:2])).all()


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        (lambda loss: loss.mean(), r"\[\]"),
        (lambda loss: loss[:, None], r"\[2, 1\]"),
        (lambda loss: loss.detach(), r"\[2\]"),
    ],
)
def test_a_loss_must_be_one_for_each_sample(tiny_backbone: Backbone, change: Any, shape: str) -> None:
    class Wrong(Agreement):
        def loss(self, embeddings: Tensor) -> Tensor:
            return change(super().loss(embeddings))

    wrong = ImageFeatures(tiny_backbone, None, [Wrong(MultiCrop(32))])
    with pytest.raises(FungiSegError, match=rf"'agreement' has shape {shape}, for embeddings of .*must be \[2\], one"):
        wrong(PICTURES[:2])


def test_objectives_need_names_of_their_own(tiny_backbone: Backbone) -> None:
    twins = [Agreement(CentreCrop(32)), Agreement(CentreCrop(32))]
    with pytest.raises(FungiSegError, match="objectives has one named 'agreement'; each needs a name of its own"):
        ImageFeatures(tiny_backbone, None, twins)
    for name in ("labels", "embedding", "a+b", "a/b", ""):
        odd = Agreement(CentreCrop(32))
        odd.name = name
        with pytest.raises(FungiSegError, match=re.escape(f"objectives has one named {name!r}; each needs a name of")):
            ImageFeatures(tiny_backbone, None, [odd])


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": ("kl", "dinno")}, r"features.objectives is 'dinno'; it must be one of .*did you mean 'dino'\?"),
        ({"objectives": ("kl", "kl")}, "features.objectives names one twice: kl, kl"),
        ({"projection": "sparse"}, "features.projection is 'sparse'; it must be one of factored, dense"),
        (
            {"objectives": ("kl", "dino"), "fast": True},
            r"features.fast is True, but features.objectives is \[kl, dino\]",
        ),
        ({"objectives": ("kl",), "support": 9}, "features.support is 9, but .* or add deepcluster or simclr"),
        ({"clusters": 9}, "features.clusters is 9, but .* or add deepcluster"),
        ({"objectives": (), "projection": "dense"}, r"features.projection is 'dense', but features.objectives is \[\]"),
        ({"side": 0}, "features.side is 0; it must be at least 1"),
        ({"projection_dim": 0}, "features.projection_dim is 0; it must be at least 1"),
        ({"support": 0}, "features.support is 0; it must be at least 1"),
        ({"clusters": 1}, "features.clusters is 1; it must be at least 2"),
        ({"seed": -1}, "features.seed is -1; it must be 0 or more"),
    ],
)
def test_settings_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        ImageFeatureConfig(**options)


def test_a_side_that_is_no_multiple_of_the_patch(tiny_backbone: Backbone) -> None:
    for objectives in ((), ("kl",)):
        with pytest.raises(FungiSegError, match=r"image size 30×30 \(height×width\) doesn't fit patches of 8×8"):
            ImageFeatures(tiny_backbone, ImageFeatureConfig(objectives, side=30))


def test_the_descriptor_has_no_gradients() -> None:
    hand_made = load_backbone("descriptor")
    with pytest.raises(FungiSegError, match="'descriptor' has no layer to take gradients of"):
        ImageFeatures(hand_made)
    assert ImageFeatures(hand_made, ImageFeatureConfig(()))(PICTURES[:2]).shape == (2, 24)


def test_features_that_are_not_finite_name_the_image(tiny_backbone: Backbone, tmp_path: Path) -> None:
    class Broken(Agreement):
        def loss(self, embeddings: Tensor) -> Tensor:
            return super().loss(embeddings) * torch.nan

    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png")
    broken = ImageFeatures(tiny_backbone, None, [Broken(CentreCrop(32))])
    with pytest.raises(FungiSegError, match=r"a.png, image 1: the features \(agreement\) are not finite; use dtype"):
        broken([tmp_path / "a.png", PICTURES[1]])
    check_finite({"kl": torch.ones(2, 3)}, ["a", "b"])


def test_info_nce_with_shared_negatives_equals_repeated_ones() -> None:
    latents, negatives = (torch.randn(3, n, 5, generator=torch.Generator().manual_seed(n)) for n in (4, 6))
    shared = info_nce(latents, 0.1, negatives[:1])
    torch.testing.assert_close(shared, info_nce(latents, 0.1, negatives[:1].expand(3, -1, -1)))
