"""Loading backbones: architectures, checkpoints as they are found in the wild, and what can go wrong."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import HALF, TINY
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fungi_seg import Backbone, FungiSegError, load_backbone

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
INCEPTION = HALF, HALF

ARCHITECTURES = [
    ("vit_small_patch16_224.dino", 16, 1, 384, IMAGENET),
    pytest.param("vit_small_patch14_dinov2.lvd142m", 14, 1, 384, IMAGENET, marks=pytest.mark.slow),
    ("vit_small_patch14_reg4_dinov2.lvd142m", 14, 5, 384, IMAGENET),
    ("vit_small_patch16_dinov3.lvd1689m", 16, 5, 384, IMAGENET),
    ("vit_xsmall_patch16_clip_224.tinyclip_yfcc15m", 16, 1, 256, CLIP),
    pytest.param("vit_base_patch16_224.mae", 16, 1, 768, IMAGENET, marks=pytest.mark.slow),
    pytest.param("deit_tiny_distilled_patch16_224.fb_in1k", 16, 2, 192, IMAGENET, marks=pytest.mark.slow),
    pytest.param("vit_medium_patch16_gap_256.sw_in12k_ft_in1k", 16, 0, 512, INCEPTION, marks=pytest.mark.slow),
    pytest.param("eva02_tiny_patch14_224.mim_in22k", 14, 1, 192, CLIP, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "patch", "prefix", "dim", "normalisation"), ARCHITECTURES)
def test_architectures(name: str, patch: int, prefix: int, dim: int, normalisation: tuple[tuple[float, ...]]) -> None:
    """Each is described rightly, frozen, and takes sizes that aren't square and aren't its own."""
    backbone = load_backbone(name, "random", device="cpu", dtype="float32")
    assert backbone.patch_size == (patch, patch)
    assert backbone.prefix_tokens == prefix
    assert backbone.dim == dim
    assert (backbone.mean, backbone.std) == (pytest.approx(normalisation[0]), pytest.approx(normalisation[1]))
    assert backbone.target is backbone.model.blocks[-1].attn.proj
    assert not backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())
    for height, width in ((2, 3), (5, 1)):
        tokens = backbone.tokens(torch.rand(2, 3, height * patch, width * patch))
        assert tokens.shape == (2, prefix + height * width, dim)
        assert tokens.isfinite().all()
        assert backbone.grid(height * patch, width * patch) == (height, width)


def test_sizes_beyond_the_native_one(tiny_backbone: Backbone) -> None:
    assert tiny_backbone.tokens(torch.rand(1, 3, 72, 104)).shape == (1, 1 + 9 * 13, 24)


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_position_embeddings_are_interpolated_along_both_axes(tmp_path: Path, axis: str) -> None:
    """Embeddings that vary along one axis alone give a blank image tokens that vary along that axis alone."""
    state = make_state()
    ramp = torch.linspace(-1, 1, 4).view(4, 1, 1) if axis == "rows" else torch.linspace(-1, 1, 4).view(1, 4, 1)
    state["pos_embed"][:, 1:] = (ramp * torch.linspace(-1, 1, 24).sin()).expand(4, 4, 24).reshape(1, 16, 24)
    backbone = load_tiny(save(state, tmp_path / "ramp.safetensors"))
    tokens = backbone.tokens(torch.full((1, 3, 40, 72), 0.3))[0, 1:].view(5, 9, 24)
    if axis == "columns":
        tokens = tokens.transpose(0, 1)
    torch.testing.assert_close(tokens, tokens[:, :1].expand_as(tokens), rtol=1e-3, atol=1e-4)
    assert (tokens[1:, 0] - tokens[:-1, 0]).abs().amax(-1).min() > 1e-2


def test_images_are_normalised(tiny_weights: Path) -> None:
    """A mean and a standard deviation do what the arithmetic by hand does."""
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    images = torch.rand(1, 3, 32, 32)
    by_hand = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    raw = load_tiny(tiny_weights, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    torch.testing.assert_close(load_tiny(tiny_weights, mean=mean, std=std).tokens(images), raw.tokens(by_hand))


def test_bfloat16_tokens_are_close_to_float32_ones(tiny_backbone: Backbone, tiny_weights: Path) -> None:
    images = torch.rand(1, 3, 32, 32)
    rounded = load_tiny(tiny_weights, dtype="bfloat16").tokens(images).float()
    exact = tiny_backbone.tokens(images)
    assert torch.cosine_similarity(rounded, exact, dim=-1).min() > 0.999


# Fingerprints


def test_fingerprint_is_that_of_the_weights(tiny_backbone: Backbone, tiny_weights: Path, tmp_path: Path) -> None:
    copied = save(load_file(tiny_weights), tmp_path / "other_name.pth")
    assert load_tiny(copied).fingerprint == tiny_backbone.fingerprint
    changed = load_file(tiny_weights)
    changed["blocks.0.mlp.fc1.bias"][0] += 1e-4
    assert load_tiny(save(changed, tmp_path / "changed.pth")).fingerprint != tiny_backbone.fingerprint


@pytest.mark.parametrize("options", [{"mean": (0.5, 0.5, 0.4)}, {"std": (0.5, 0.5, 0.4)}])
def test_fingerprint_covers_the_normalisation(
    tiny_backbone: Backbone, tiny_weights: Path, options: dict[str, Any]
) -> None:
    assert load_tiny(tiny_weights, **options).fingerprint != tiny_backbone.fingerprint


def test_fingerprint_covers_the_heads(tiny_backbone: Backbone, tiny_weights: Path) -> None:
    assert load_tiny(tiny_weights, model_args=TINY | {"num_heads": 4}).fingerprint != tiny_backbone.fingerprint


def test_fingerprint_is_independent_of_the_arithmetic(tiny_backbone: Backbone, tiny_weights: Path) -> None:
    assert load_tiny(tiny_weights, dtype="bfloat16").fingerprint == tiny_backbone.fingerprint


def test_random_weights_are_the_same_every_time() -> None:
    first = load_tiny("random")
    torch.rand(1)
    assert load_tiny("random").fingerprint == first.fingerprint


@pytest.mark.parametrize("name", ["tiny", "test_vit.r160_in1k"])
def test_loading_leaves_the_global_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    load_backbone(name, "random", "cpu", "float32", TINY if name == "tiny" else None)
    assert torch.equal(torch.get_rng_state(), before)


# Checkpoints


def make_state(seed: int = 1, **changes: Any) -> dict[str, Tensor]:
    """Random weights of the tiny ViT, every entry drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    model = VisionTransformer(**(TINY | changes))
    return {k: torch.randn(v.shape, generator=generator) * 0.1 for k, v in model.state_dict().items()}


def save(content: Any, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def load_tiny(weights: str | Path, **options: Any) -> Backbone:
    defaults = {"device": "cpu", "dtype": "float32", "model_args": TINY, "mean": HALF, "std": HALF}
    return load_backbone("tiny", weights, **(defaults | options))


def assert_loaded(backbone: Backbone, state: dict[str, Tensor]) -> None:
    own = backbone.model.state_dict()
    assert own.keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(own[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_plain_checkpoint(tmp_path: Path, suffix: str, kind: type) -> None:
    """A path is a path, given as a string (as a configuration gives it) or not."""
    state = make_state()
    assert_loaded(load_tiny(kind(save(state, tmp_path / f"weights{suffix}"))), state)


@pytest.mark.parametrize("container", ["teacher", "state_dict", "model", "student"])
@pytest.mark.parametrize("prefix", ["", "backbone.", "module.", "module.backbone."])
def test_wrapped_checkpoint(tmp_path: Path, container: str, prefix: str) -> None:
    state = make_state()
    wrapped = {container: {prefix + k: v for k, v in state.items()}, "epoch": 3}
    assert_loaded(load_tiny(save(wrapped, tmp_path / "weights.pth")), state)


def test_full_dino_checkpoint(tmp_path: Path) -> None:
    """The teacher is taken, its head left out, and the arguments beside it do no harm."""
    state, student = make_state(1), make_state(2)
    head = {"head.mlp.0.weight": torch.ones(3, 3), "head.last_layer.weight_g": torch.ones(3, 1)}
    checkpoint = {
        "student": {f"module.backbone.{k}": v for k, v in student.items()}
        | {f"module.{k}": v for k, v in head.items()},
        "teacher": {f"backbone.{k}": v for k, v in state.items()} | head,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "epoch": 99,
        "args": argparse.Namespace(arch="vit_small", lr=0.0005, global_crops_scale=(0.4, 1.0)),
        "dino_loss": {"center": torch.zeros(1, 5)},
    }
    assert_loaded(load_tiny(save(checkpoint, tmp_path / "checkpoint.pth")), state)


def test_reading_a_checkpoint_allows_no_class_for_good(tmp_path: Path) -> None:
    load_tiny(save({"model": make_state(), "args": argparse.Namespace(a=1)}, tmp_path / "weights.pth"))
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_names_of_the_original_dinov2(tmp_path: Path) -> None:
    """Its registers have another name, and its position embeddings include the CLS token's."""
    arguments = TINY | {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}
    state = make_state(reg_tokens=4, no_embed_class=True, init_values=1e-5)
    of_class = torch.randn(1, 1, 24)
    original = {k: v for k, v in state.items() if k not in ("reg_token", "pos_embed", "cls_token")}
    original |= {
        "register_tokens": state["reg_token"],
        "cls_token": state["cls_token"] - of_class,
        "pos_embed": torch.cat([of_class, state["pos_embed"]], dim=1),
        "mask_token": torch.zeros(1, 24),
    }
    backbone = load_tiny(save(original, tmp_path / "dinov2.pth"), model_args=arguments)
    assert backbone.prefix_tokens == 5
    torch.testing.assert_close(backbone.model.cls_token, state["cls_token"])
    torch.testing.assert_close(backbone.model.reg_token, state["reg_token"])
    torch.testing.assert_close(backbone.model.pos_embed, state["pos_embed"])


def test_position_embeddings_of_another_input_size(tmp_path: Path) -> None:
    state = make_state(img_size=64)
    backbone = load_tiny(save(state, tmp_path / "larger.safetensors"))
    expected = resample_abs_pos_embed(state["pos_embed"], new_size=[4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(backbone.model.pos_embed.data, expected)
    assert_loaded(backbone, state | {"pos_embed": backbone.model.pos_embed.data})


def test_half_precision_checkpoint(tmp_path: Path) -> None:
    state = {k: v.half() for k, v in make_state().items()}
    backbone = load_tiny(save(state, tmp_path / "half.safetensors"))
    assert_loaded(backbone, {k: v.float() for k, v in state.items()})


def test_checkpoint_for_a_model_that_timm_names(tmp_path: Path) -> None:
    state = {
        k: torch.randn_like(v) * 0.1
        for k, v in timm.create_model("test_vit", num_classes=10).state_dict().items()  # head and all
    }
    path = save(state, tmp_path / "weights.safetensors")
    backbone = load_backbone("test_vit.r160_in1k", path, device="cpu", dtype="float32")
    assert_loaded(backbone, {k: v for k, v in state.items() if not k.startswith("head.")})


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, zipped: bool) -> None:
    path, trap = tmp_path / "weights.pth", tmp_path / "executed"
    torch.save(make_state() | {"extra": Malicious(trap)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(FungiSegError, match=r"(?s)weights.pth: can't be read as weights .*never run"):
        load_tiny(path)
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists()  # the trap does work


@pytest.mark.parametrize("kind", [str, Path])
def test_missing_file(tmp_path: Path, kind: type) -> None:
    with pytest.raises(FungiSegError, match=r"(?s)backbone.weights is '.*nowhere.pth': no such file"):
        load_tiny(kind(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("size", [0, 50, 1500, 4200, -1000])
def test_truncated_file(tmp_path: Path, suffix: str, size: int) -> None:
    path = save(make_state(), tmp_path / f"weights{suffix}")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FungiSegError, match=rf"(?s)weights{suffix}: can't be read as weights"):
        load_tiny(path)


@pytest.mark.parametrize("size", [0, 3, 18, 30, 50, 1500, -1000])
def test_truncated_file_of_old_torch(tmp_path: Path, size: int) -> None:
    path = tmp_path / "weights.pth"
    torch.save(make_state(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FungiSegError, match=r"(?s)weights.pth: can't be read as weights"):
        load_tiny(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_web_page_saved_as_weights(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    with pytest.raises(FungiSegError, match=r"(?s)can't be read as weights"):
        load_tiny(path)


@pytest.mark.parametrize(
    "content",
    [[1, 2], torch.ones(3), argparse.Namespace(a=1), {0: torch.ones(3)}, {}],
    ids=["list", "tensor", "namespace", "numbers", "empty"],
)
def test_file_without_named_tensors(tmp_path: Path, content: object) -> None:
    with pytest.raises(FungiSegError, match=r"(?s)weights.pth: "):
        load_tiny(save(content, tmp_path / "weights.pth"))


def test_deeper_model_than_the_weights(tmp_path: Path) -> None:
    path = save(make_state(), tmp_path / "weights.pth")
    with pytest.raises(FungiSegError, match=r"(?s)don't fit.*Missing 12:\n  blocks.2.norm1.weight\n.*and 7 more"):
        load_tiny(path, model_args=TINY | {"depth": 3})


def test_shallower_model_than_the_weights(tmp_path: Path) -> None:
    path = save(make_state(), tmp_path / "weights.pth")
    with pytest.raises(FungiSegError, match=r"(?s)not known to the model 12:\n  blocks.1.norm1.weight"):
        load_tiny(path, model_args=TINY | {"depth": 1})


def test_wider_model_than_the_weights(tmp_path: Path) -> None:
    path = save(make_state(), tmp_path / "weights.pth")
    with pytest.raises(FungiSegError, match=r"(?s)weights.pth: the weights are those of another model.*cls_token"):
        load_tiny(path, model_args=TINY | {"embed_dim": 48})


@pytest.mark.parametrize("name", ["test_vit3.r160_in1k", "vit_tiny_patch16_dinov3_qkvb"])
def test_weights_of_another_named_model(tmp_path: Path, name: str) -> None:
    path = save(timm.create_model("test_vit").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(FungiSegError, match=r"(?s)weights.pth: the weights"):
        load_backbone(name, path, device="cpu")


# Names and options


def test_unknown_name_is_answered_with_the_nearest() -> None:
    message = (
        r"(?s)backbone.name is 'vit_smal_patch16_224.dino'.*did you mean 'vit_small_patch16_224.dino'\?.*model_args"
    )
    with pytest.raises(FungiSegError, match=message):
        load_backbone("vit_smal_patch16_224.dino", "random", device="cpu")


@pytest.mark.parametrize("weights", ["random", None])
def test_unknown_tag_of_a_known_name(weights: str | None) -> None:
    with pytest.raises(FungiSegError, match=r"(?s)backbone.name is 'vit_small_patch16_224.dinno'"):
        load_backbone("vit_small_patch16_224.dinno", weights, device="cpu")


@pytest.mark.parametrize(
    "name",
    ["resnet18", "swin_tiny_patch4_window7_224", "convnext_atto", "vit_tiny_r_s16_p8_224", "beit_base_patch16_224"],
)
def test_models_that_are_no_plain_vit(name: str) -> None:
    with pytest.raises(FungiSegError, match=rf"(?s)backbone(.name is)? '{name}'.*ViT"):
        load_backbone(name, "random", device="cpu", dtype="float32")


def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known\nsecond line")

    monkeypatch.setattr(timm, "create_model", offline)
    message = r"(?s)weights of 'vit_small_patch16_224.dino' can't be had from the hub \(OSError: Name .*weights=FILE"
    with pytest.raises(FungiSegError, match=message):
        load_backbone(device="cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "cpuu"])
def test_unknown_device(device: str) -> None:
    with pytest.raises(
        FungiSegError, match=rf"(?s)backbone.device is '{device}', which this machine doesn't have.*cpu"
    ):
        load_tiny("random", device=device)


@pytest.mark.parametrize("dtype", ["float16", "bf16", "", "double"])
def test_unknown_dtype(dtype: str) -> None:
    with pytest.raises(
        FungiSegError, match=rf"(?s)backbone.dtype is '{dtype}'; it must be one of auto, bfloat16, float32"
    ):
        load_tiny("random", dtype=dtype)


def test_automatic_device_and_dtype() -> None:
    backbone = load_tiny("random", device="auto", dtype="auto")
    assert backbone.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert backbone.dtype in (torch.float32, torch.bfloat16)
    assert backbone.tokens(torch.rand(1, 3, 32, 32)).shape == (1, 17, 24)


@pytest.mark.parametrize("weights", [None, ""])
def test_model_args_without_weights(weights: str | None) -> None:
    with pytest.raises(FungiSegError, match=r"(?s)backbone.weights is empty for 'tiny'.*weights=FILE.*'random'"):
        load_backbone("tiny", weights, device="cpu", model_args=TINY)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch": 8},
        {"embed_dim": 25},
        {"img_size": "large"},
        {"num_heads": 0},
        {"patch_size": 0},
        {"depth": -1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_bad_model_args(changes: dict[str, Any]) -> None:
    with pytest.raises(FungiSegError, match=r"(?s)backbone.model_args don't make a timm VisionTransformer \(.*\): "):
        load_tiny("random", model_args=TINY | changes)


@pytest.mark.parametrize(
    ("options", "argument"),
    [({"mean": (0.5,)}, "mean"), ({"std": (0.5, 0.5)}, "std"), ({"std": (0.5, 0.0, 0.5)}, "std")],
)
def test_bad_normalisation(options: dict[str, Any], argument: str) -> None:
    with pytest.raises(FungiSegError, match=rf"(?s)backbone.{argument} is "):
        load_tiny("random", **options)


def test_weights_for_another_patch_size_are_not_resampled(tmp_path: Path) -> None:
    path = save(make_state(patch_size=4), tmp_path / "weights.pth")
    with pytest.raises(FungiSegError, match=r"for patches of \[4, 4\] pixels, the model named has \[8, 8\]"):
        load_tiny(path)


def test_fingerprint_knows_the_activation(tmp_path: Path) -> None:
    path = save(make_state(), tmp_path / "weights.pth")
    other = load_tiny(path, model_args=TINY | {"act_layer": "quick_gelu"})
    assert other.fingerprint != load_tiny(path).fingerprint


def test_eight_bit_images_are_those_in_0_to_1(tiny_backbone: Backbone) -> None:
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tiny_backbone.tokens(images), tiny_backbone.tokens(images / 255), rtol=1e-5, atol=1e-5)


def test_other_integer_images_are_refused(tiny_backbone: Backbone) -> None:
    with pytest.raises(FungiSegError, match=r"images is of torch.int64; it must be uint8, or floating point, RGB in 0"):
        tiny_backbone.tokens(torch.zeros(1, 3, 16, 16, dtype=torch.int64))
