"""Patch features: against the published vectors, per-sample gradients by `torch.func`, and their own promises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import HALF, TINY, assert_same_rows
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fungi_seg import Backbone, FeatureConfig, FungiSegError, PatchFeatures, load_backbone
from fungi_seg.features.gradients import forward_with_cut
from fungi_seg.features.objectives import info_nce
from fungi_seg.features.projection import DenseProjection, FactoredProjection

WIDTH = TINY["embed_dim"]
KINDS = [FeatureConfig(kind="plain"), FeatureConfig(), FeatureConfig(projection="dense"), FeatureConfig(negatives=2)]
KIND_NAMES = ["plain", "fungi", "dense", "negatives"]


def random_images(count: int = 2, height: int = 32, width: int = 48, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def random_support(rows: int = 60, dim: int = WIDTH) -> Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(9)), dim=-1)


def make(backbone: Backbone, config: FeatureConfig) -> PatchFeatures:
    return PatchFeatures(backbone, config, random_support() if config.needs_support else None)


# The published vectors


@pytest.fixture
def published_features(
    published: dict[str, Tensor], published_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> PatchFeatures:
    """`PatchFeatures` with the published head, signs and negatives."""
    features = PatchFeatures(published_backbone, FeatureConfig(projection="dense", head_dim=12, projection_dim=32))
    features.projection = DenseProjection(published["projection"].view(32, 32, 33))
    features.head.weight = published["patch_simclr/head_weight"]
    features.head.bias = published["patch_simclr/head_bias"]
    images, support = published["patch_simclr/images"], published["patch_simclr/negatives"]

    def negatives(_: Tensor, image: Tensor) -> Tensor:
        index = next(i for i, known in enumerate(images) if torch.equal(known, image))
        return features.head(support[index].flatten(0, 1)).unsqueeze(0)

    monkeypatch.setattr(features, "_negatives", negatives)
    return features


def test_published_tokens(published: dict[str, Tensor], published_backbone: Backbone) -> None:
    tokens = published_backbone.tokens(published["patch_simclr/images"])
    assert_same_rows(tokens, published["patch_simclr/tokens"])


def test_published_loss(published: dict[str, Tensor], published_features: PatchFeatures) -> None:
    latents = published_features.head(published["patch_simclr/tokens"])
    negatives = published_features.head(published["patch_simclr/negatives"].flatten(1, 2))
    torch.testing.assert_close(info_nce(latents, 0.07, negatives), published["patch_simclr/loss"], rtol=1e-5, atol=1e-5)


def test_published_gradients(published: dict[str, Tensor], published_features: PatchFeatures) -> None:
    embeddings, gradients = published_features.parts(published["patch_simclr/images"])
    assert_same_rows(embeddings, F.normalize(published["patch_simclr/tokens"], dim=-1))
    assert_same_rows(gradients[:, 1:], F.normalize(published["patch_simclr/projected_gradients"], dim=-1))


def test_published_features_of_patches(published: dict[str, Tensor], published_features: PatchFeatures) -> None:
    features = published_features(published["patch_simclr/images"])
    assert_same_rows(features, published["patch_simclr/features"])
    single = torch.cat([published_features(image[None]) for image in published["patch_simclr/images"]])
    assert_same_rows(single, published["patch_simclr/features"])


# Gradients by torch.func, sharing no code with the package


class TokenLinear(nn.Module):
    """A linear layer with a weight and a bias of its own for each token."""

    def __init__(self, layer: nn.Linear, tokens: int):
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().expand(tokens, -1, -1).clone())
        self.bias = nn.Parameter(layer.bias.detach().expand(tokens, -1).clone())

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.einsum("toi,bti->bto", self.weight, inputs) + self.bias


class Loss(nn.Module):
    """The patch objective of one normalised image `[3, H, W]`, by its definition."""

    def __init__(self, model: nn.Module, features: PatchFeatures):
        super().__init__()
        self.model, self.features = model, features

    def forward(self, image: Tensor) -> Tensor:
        z = self.model.forward_features(image[None])[0] @ self.features.head.weight.T + self.features.head.bias
        z = z / z.norm(dim=-1, keepdim=True)
        similarities = z @ z.T
        off = ~torch.eye(len(z), dtype=torch.bool)
        positives = (similarities * off).sum(1) / (self.features.config.temperature * (len(z) - 1))
        candidates = torch.where(off, similarities, -torch.inf)
        return (torch.log(candidates.exp().sum(1)) - positives).mean()


def gradients_by_functional_call(
    features: PatchFeatures, images: Tensor, replace: Callable[[nn.Linear], nn.Module]
) -> Tensor:
    """Gradient of each image's loss by `[weight, bias]` of the target layer, as `replace` makes it anew."""
    backbone = features.backbone
    model = copy.deepcopy(backbone.model)
    attention = model.blocks[-1].attn
    attention.proj = replace(attention.proj)
    loss = Loss(model, features)
    name = f"model.blocks.{len(model.blocks) - 1}.attn.proj."

    def of_image(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(loss, parameters, (image,))

    parameters = {name + key: value.detach() for key, value in attention.proj.named_parameters()}
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    per_image = [torch.func.grad(of_image)(parameters, (image - mean) / std) for image in images]
    return torch.stack([torch.cat([g[name + "weight"], g[name + "bias"].unsqueeze(-1)], dim=-1) for g in per_image])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
def test_gradients_are_those_of_a_weight_per_token(tiny_backbone: Backbone, height: int, width: int) -> None:
    features = PatchFeatures(tiny_backbone, FeatureConfig(projection="dense", projection_dim=40))
    images = random_images(2, height, width)
    tokens = 1 + height * width // 64
    by_token = gradients_by_functional_call(features, images, lambda layer: TokenLinear(layer, tokens))
    signs = features.projection.matrix.float()
    expected = F.normalize(torch.einsum("btoi,poi->btp", by_token, signs), dim=-1)
    assert_same_rows(features.parts(images)[1], expected)


def test_factors_sum_to_the_gradient_of_the_real_weight(tiny_backbone: Backbone) -> None:
    features, images = PatchFeatures(tiny_backbone, FeatureConfig()), random_images()
    with torch.enable_grad():
        forward = forward_with_cut(tiny_backbone, images)
        loss = info_nce(features.head(forward.tokens), features.config.temperature).sum()
        (by_output,) = torch.autograd.grad(loss, forward.cut)
    summed = torch.einsum("bto,bti->boi", by_output, F.pad(forward.inputs, (0, 1), value=1.0))
    expected = gradients_by_functional_call(features, images, lambda layer: layer)
    assert_same_rows(summed.flatten(1), expected.flatten(1))


def test_cut_leaves_the_tokens_as_they_are(tiny_backbone: Backbone) -> None:
    images = random_images()
    torch.testing.assert_close(forward_with_cut(tiny_backbone, images).tokens, tiny_backbone.tokens(images))


def test_nothing_before_the_cut_joins_a_graph(tiny_backbone: Backbone) -> None:
    with torch.enable_grad():
        forward = forward_with_cut(tiny_backbone, random_images())
    assert not forward.inputs.requires_grad
    assert forward.cut.is_leaf
    assert forward.tokens.requires_grad


def test_factored_features_are_dense_ones_with_outer_product_rows(tiny_backbone: Backbone) -> None:
    factored = PatchFeatures(tiny_backbone, FeatureConfig(projection_dim=33))
    dense = PatchFeatures(tiny_backbone, FeatureConfig(projection="dense", projection_dim=33))
    assert isinstance(factored.projection, FactoredProjection)
    rows = torch.einsum("oj,ij->joi", factored.projection.rows_out, factored.projection.rows_in)
    dense.projection = DenseProjection(rows.to(torch.int8))
    assert_same_rows(factored(random_images()), dense(random_images()))


def test_target_of_a_model_with_registers_and_rotary_positions() -> None:
    """The gradient of a DINOv3 (another class of timm than the plain ViT) sums to that of its real weight."""
    backbone = load_backbone("vit_tiny_patch16_dinov3_qkvb", "random", device="cpu", dtype="float32")
    features, images = PatchFeatures(backbone, FeatureConfig(projection="dense", projection_dim=8)), random_images(1)
    by_token = gradients_by_functional_call(features, images, lambda layer: TokenLinear(layer, 5 + 2 * 3))
    expected = F.normalize(torch.einsum("btoi,poi->btp", by_token, features.projection.matrix.float()), dim=-1)
    assert_same_rows(features.parts(images)[1], expected, relative=1e-3)
    assert features(images).shape == (1, 6, 192 + 8)


# What a feature depends on, and what it does not


@pytest.mark.parametrize("config", KINDS, ids=KIND_NAMES)
def test_shape_length_and_type(tiny_backbone: Backbone, config: FeatureConfig) -> None:
    features = make(tiny_backbone, config)
    result = features(random_images(3, 24, 40))
    assert result.shape == (3, 15, features.dim)
    assert features.dim == (WIDTH if config.kind == "plain" else 2 * WIDTH)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.norm(dim=-1), torch.ones(3, 15))


@pytest.mark.parametrize("projection", ["factored", "dense"])
def test_projection_dim_is_the_width_of_the_gradient(tiny_backbone: Backbone, projection: str) -> None:
    features = PatchFeatures(tiny_backbone, FeatureConfig(projection=projection, projection_dim=10))
    assert features.dim == WIDTH + 10
    assert features(random_images()).shape == (2, 24, WIDTH + 10)


def test_plain_features_are_normalised_patch_tokens(tiny_backbone: Backbone) -> None:
    images = random_images()
    expected = F.normalize(tiny_backbone.tokens(images)[:, 1:], dim=-1)
    torch.testing.assert_close(PatchFeatures(tiny_backbone, FeatureConfig(kind="plain"))(images), expected)


def test_fungi_features_are_tokens_and_gradients_in_equal_parts(tiny_backbone: Backbone) -> None:
    images = random_images()
    features = PatchFeatures(tiny_backbone)
    embeddings, gradients = features.parts(images)
    result = features(images) * 2**0.5
    torch.testing.assert_close(result[..., :WIDTH], embeddings[:, 1:])
    torch.testing.assert_close(result[..., WIDTH:], gradients[:, 1:])
    plain = PatchFeatures(tiny_backbone, FeatureConfig(kind="plain"))(images)
    torch.testing.assert_close(embeddings[:, 1:], plain)


@pytest.mark.parametrize("config", KINDS, ids=KIND_NAMES)
def test_features_do_not_depend_on_the_batch(tiny_backbone: Backbone, config: FeatureConfig) -> None:
    features, images = make(tiny_backbone, config), random_images(3)
    single = torch.cat([features(image[None]) for image in images])
    assert F.cosine_similarity(features(images), single, dim=-1).min() > 0.9999
    assert F.cosine_similarity(features(images.flip(0)).flip(0), single, dim=-1).min() > 0.9999


@pytest.mark.parametrize("config", KINDS, ids=KIND_NAMES)
def test_images_differ(tiny_backbone: Backbone, config: FeatureConfig) -> None:
    first, second = make(tiny_backbone, config)(random_images())
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("projection", ["factored", "dense"])
def test_seed_fixes_the_features(tiny_backbone: Backbone, projection: str) -> None:
    images = random_images()
    first, again, other = (
        PatchFeatures(tiny_backbone, FeatureConfig(projection=projection, seed=seed))(images) for seed in (3, 3, 4)
    )
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    torch.testing.assert_close(first[..., :WIDTH], other[..., :WIDTH])
    assert not torch.allclose(first[..., WIDTH:], other[..., WIDTH:], atol=1e-2)


def test_features_leave_the_global_generator_alone(tiny_backbone: Backbone) -> None:
    before = torch.get_rng_state()
    make(tiny_backbone, FeatureConfig(negatives=2))(random_images())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("config", KINDS, ids=KIND_NAMES)
def test_bfloat16_is_close_to_float32(tiny_backbone: Backbone, tiny_weights: Path, config: FeatureConfig) -> None:
    rounded = load_backbone("tiny", tiny_weights, "cpu", "bfloat16", TINY, HALF, HALF)
    images = random_images()
    result = make(rounded, config)(images)
    assert result.dtype == torch.float32
    assert F.cosine_similarity(result, make(tiny_backbone, config)(images), dim=-1).min() > 0.98


@pytest.mark.parametrize("config", KINDS, ids=KIND_NAMES)
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_any_gradient_mode_gives_the_same(
    tiny_backbone: Backbone, config: FeatureConfig, mode: Callable[[], torch.inference_mode]
) -> None:
    features = make(tiny_backbone, config)
    expected = features(random_images())
    with mode():
        result = features(random_images())
    assert not result.requires_grad
    torch.testing.assert_close(result, expected)


def test_features_made_in_inference_mode_work(tiny_backbone: Backbone) -> None:
    with torch.inference_mode():
        result = PatchFeatures(tiny_backbone)(random_images())
    torch.testing.assert_close(result, PatchFeatures(tiny_backbone)(random_images()))


def test_backbone_loaded_in_inference_mode_works(tiny_backbone: Backbone, tiny_weights: Path) -> None:
    with torch.inference_mode():
        backbone = load_backbone("tiny", tiny_weights, "cpu", "float32", TINY, HALF, HALF)
    torch.testing.assert_close(PatchFeatures(backbone)(random_images()), PatchFeatures(tiny_backbone)(random_images()))


def test_parts_need_no_gradient(tiny_backbone: Backbone) -> None:
    assert not any(part.requires_grad for part in PatchFeatures(tiny_backbone).parts(random_images()))


def test_backbone_stays_frozen(tiny_backbone: Backbone) -> None:
    PatchFeatures(tiny_backbone)(random_images())
    parameters = list(tiny_backbone.model.parameters())
    assert all(p.grad is None and not p.requires_grad for p in parameters)
    assert [*tiny_backbone.target._forward_hooks.values()] == [tiny_backbone.at_target]
    assert asked_for_nothing(tiny_backbone)


def asked_for_nothing(backbone: Backbone) -> bool:
    """Whether a forward pass of this thread is what it would be without any hook."""
    images = random_images(1)
    with torch.no_grad():
        return not backbone.tokens(images).requires_grad and torch.equal(
            backbone.tokens(images), bare(backbone, images)
        )


def bare(backbone: Backbone, images: Tensor) -> Tensor:
    """Tokens of a copy of the model without hooks."""
    model = VisionTransformer(**TINY, dynamic_img_size=True)
    model.load_state_dict(backbone.model.state_dict())
    return model.eval().forward_features(backbone.normalise(images))


def test_nothing_is_asked_any_more_when_the_model_fails(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = PatchFeatures(tiny_backbone)
    expected = features(random_images())

    def fail(_: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(tiny_backbone.model.norm, "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            features(random_images())
    assert asked_for_nothing(tiny_backbone)
    torch.testing.assert_close(features(random_images()), expected)


def test_uint8_and_its_share_of_255_are_the_same_bits(tiny_backbone: Backbone) -> None:
    """There is one place where pixels become numbers in 0..1; whoever has them as they are may hand them over so."""
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3 * 4).view(1, 3, 32, 32)
    assert torch.equal(tiny_backbone.normalise(pixels), tiny_backbone.normalise(pixels.float() / 255))
    for config in KINDS:
        features = make(tiny_backbone, config)
        assert torch.equal(features(pixels), features(pixels.float() / 255))
    assert torch.equal(pixels, torch.arange(256, dtype=torch.uint8).repeat(12).view(1, 3, 32, 32))  # left as they were


# Negatives


def test_negatives_are_the_nearest_in_the_support_set(tiny_backbone: Backbone) -> None:
    support = random_support()
    features = PatchFeatures(tiny_backbone, FeatureConfig(negatives=3, keep_negatives=1.0), support)
    images = random_images(1)
    embeddings = features.parts(images)[0][0]
    order = (embeddings @ support.T).argsort(dim=-1, descending=True)[:, :3].flatten()
    negatives = features._negatives(embeddings, images[0])
    assert negatives is not None
    assert negatives.shape == (1, 25 * 3, 96)
    expected = features.head(support[order])
    torch.testing.assert_close(negatives[0].sum(0), expected.sum(0), rtol=1e-4, atol=1e-4)
    assert torch.cdist(negatives[0], expected).amin(1).max() < 1e-2


@pytest.mark.parametrize(("share", "kept"), [(0.5, 25), (0.1, 5), (1e-6, 1), (1.0, 50)])
def test_share_of_negatives_kept(tiny_backbone: Backbone, share: float, kept: int) -> None:
    features = PatchFeatures(tiny_backbone, FeatureConfig(negatives=2, keep_negatives=share), random_support())
    negatives = features._negatives(random_support(25), random_images(1)[0])
    assert negatives is not None
    assert negatives.shape == (1, kept, 96)


def test_negatives_kept_are_drawn_for_each_image(tiny_backbone: Backbone) -> None:
    embeddings, (first, second) = random_support(25), random_images()
    features = make(tiny_backbone, FeatureConfig(negatives=2))
    of_first, again, of_second = (features._negatives(embeddings, image) for image in (first, first.clone(), second))
    of_other_seed = make(tiny_backbone, FeatureConfig(negatives=2, seed=1))
    of_other_seed.head = features.head
    assert of_first is not None
    assert torch.equal(of_first, again)
    assert not torch.equal(of_first, of_second)
    assert not torch.equal(of_first, of_other_seed._negatives(embeddings, first))


def test_support_smaller_than_the_negatives_asked_for(tiny_backbone: Backbone) -> None:
    features = PatchFeatures(tiny_backbone, FeatureConfig(negatives=5, keep_negatives=1.0), random_support(2))
    negatives = features._negatives(random_support(25), random_images(1)[0])
    assert negatives is not None
    assert negatives.shape == (1, 50, 96)


def test_negatives_move_the_gradient_alone(tiny_backbone: Backbone) -> None:
    without, with_negatives = (make(tiny_backbone, FeatureConfig(negatives=n))(random_images()) for n in (0, 2))
    torch.testing.assert_close(without[..., :WIDTH], with_negatives[..., :WIDTH])
    assert not torch.allclose(without[..., WIDTH:], with_negatives[..., WIDTH:], atol=1e-5)


def test_support_made_in_inference_mode(tiny_backbone: Backbone) -> None:
    with torch.inference_mode():
        support = random_support()
    features = PatchFeatures(tiny_backbone, FeatureConfig(negatives=2), support)
    torch.testing.assert_close(
        features(random_images()), make(tiny_backbone, FeatureConfig(negatives=2))(random_images())
    )


# Small images and errors


def test_image_of_one_patch(tiny_backbone: Backbone) -> None:
    result = PatchFeatures(tiny_backbone)(random_images(1, 8, 8))
    assert result.shape == (1, 1, 2 * WIDTH)
    assert result.isfinite().all()


def test_image_of_one_patch_has_no_other_view_without_prefix_tokens() -> None:
    arguments = TINY | {"class_token": False, "global_pool": "avg"}
    backbone = load_backbone("tiny", "random", "cpu", "float32", arguments, HALF, HALF)
    features = PatchFeatures(backbone)
    assert features(random_images(1, 8, 16)).isfinite().all()
    with pytest.raises(FungiSegError):
        features(random_images(1, 8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "fungus"}, r"features.kind is 'fungus'; it must be one of fungi, plain.*'fungi'"),
        ({"projection": "sparse"}, r"features.projection is 'sparse'; it must be one of factored, dense"),
        ({"projection_dim": 0}, r"features.projection_dim is 0; it must be a number above 0"),
        ({"head_dim": -1}, r"features.head_dim is -1; it must be a number above 0"),
        ({"temperature": 0.0}, r"features.temperature is 0.0; it must be a number above 0"),
        ({"temperature": float("nan")}, r"features.temperature is nan; it must be a number above 0"),
        ({"temperature": float("inf")}, r"features.temperature is inf; it must be a number above 0"),
        ({"kind": "plain", "projection": "dense"}, "features.projection is 'dense', but features.kind plain takes no"),
        (
            {"kind": "plain", "projection_dim": 9},
            "features.projection_dim is 9, but .* leave it out, or use kind fungi",
        ),
        ({"kind": "plain", "negatives": 2}, "features.negatives is 2, but features.kind plain takes no gradient"),
        ({"keep_negatives": 0.9}, "features.keep_negatives is 0.9, but features.negatives is 0"),
        ({"support_size": 99}, "features.support_size is 99, but .* or set features.negatives to 2"),
        ({"support_size": 0}, r"features.support_size is 0; it must be a number above 0"),
        ({"negatives": -1}, r"features.negatives is -1; it must be 0 \(none\) or more"),
        ({"keep_negatives": 0.0}, r"features.keep_negatives is 0.0; it must be in \(0, 1\]"),
        ({"keep_negatives": 1.5}, r"features.keep_negatives is 1.5; it must be in \(0, 1\]"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        FeatureConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("support", [None, torch.zeros(0, WIDTH), torch.zeros(WIDTH)], ids=["none", "empty", "flat"])
def test_negatives_without_a_support_set(tiny_backbone: Backbone, support: Tensor | None) -> None:
    with pytest.raises(FungiSegError, match=r"features.negatives is 2, which needs a support set \[S, 24\]; got "):
        PatchFeatures(tiny_backbone, FeatureConfig(negatives=2), support)


def test_support_of_another_width(tiny_backbone: Backbone) -> None:
    with pytest.raises(FungiSegError, match="support is 32 wide; the backbone's tokens are 24"):
        PatchFeatures(tiny_backbone, FeatureConfig(negatives=2), random_support(dim=32))


@pytest.mark.parametrize("config", KINDS, ids=KIND_NAMES)
@pytest.mark.parametrize(("height", "width"), [(33, 32), (32, 30), (0, 32), (4, 8)])
def test_size_that_is_no_multiple_of_the_patch(
    tiny_backbone: Backbone, config: FeatureConfig, height: int, width: int
) -> None:
    with pytest.raises(FungiSegError, match=rf"(?s)image size {height}×{width} .*patches of 8×8.*multiples"):
        make(tiny_backbone, config)(torch.zeros(1, 3, height, width))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 32, 32, 3)])
def test_images_of_a_wrong_shape(tiny_backbone: Backbone, shape: tuple[int, ...]) -> None:
    with pytest.raises(FungiSegError, match=r"(?s)images has shape \[.*\]; it must be \[B, 3, H, W\]"):
        PatchFeatures(tiny_backbone)(torch.zeros(shape))
