"""Load a frozen vision transformer and describe it."""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fungi_seg.errors import FungiSegError, listing, nearest, reason
from fungi_seg.features import descriptor, embedded
from fungi_seg.features.settings import BackboneConfig
from fungi_seg.features.taps import Tap
from fungi_seg.hardware import has_bfloat16

RANDOM = "random"
GLOBAL_GENERATOR = threading.Lock()  # timm draws from it; of two backbones made at once each would get half of it
DEFAULT_SIDE = 224
CONTAINERS = ("teacher", "state_dict", "model", "model_state_dict", "student")
PREFIXES = ("module.", "teacher.", "backbone.", "_orig_mod.")
NOT_BACKBONE = ("head", "fc.", "fc_norm.", "projection_head", "decoder", "mask_token", "projector", "predictor")


class Backbone:
    """A frozen ViT in eval mode. Any number of threads may use one at the same time: no call leaves anything behind.

    Attributes:
        config: what it was loaded from.
        model: the timm model; no parameter asks for a gradient.
        patch_size: `(height, width)` of a patch in pixels.
        prefix_tokens: number of tokens before the patch tokens (CLS and registers).
        dim: width `D` of a token.
        mean, std: normalisation, RGB in 0..1.
        device, dtype: where and in which arithmetic it runs.
        fingerprint: SHA-256 of the weights, numbers of heads, activations and normalisation.
        at_target, at_last_block: what a thread asks of its own forward passes, at `target` and at `last_block`.
    """

    def __init__(self, model: nn.Module, config: BackboneConfig, device: torch.device, dtype: torch.dtype):
        self.config = config
        self._target: nn.Linear | None = None
        self.at_target, self.at_last_block = Tap(), Tap()
        if isinstance(model, descriptor.Descriptor):
            self.patch_size = model.patch_size
        else:
            self._target = _target_layer(model, config.name)
            self._target.register_forward_hook(self.at_target)
            cast(Any, model).blocks[-1].register_forward_hook(self.at_last_block)
            self.patch_size = _patch_size(model, config.name)
        self.prefix_tokens = int(getattr(model, "num_prefix_tokens", 1))
        self.dim = int(cast(Any, model).embed_dim)
        mean, std = _normalisation(model, config)
        self.mean = _three("mean", config.mean or mean)
        self.std = _three("std", config.std or std, above=0)
        self.fingerprint = _fingerprint(model, self.mean, self.std)
        self.device, self.dtype = device, dtype
        self.model = model.eval().requires_grad_(False).to(device)
        if dtype != torch.float32:
            _store_products_in(self.model, dtype)
        self._mean = torch.tensor(self.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(self.std, device=device).view(1, 3, 1, 1)

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        """The backbone itself: it is frozen, so that copies of what holds it can share it."""
        return self

    @property
    def has_gradients(self) -> bool:
        """Whether there is a layer that FUNGI can differentiate by; the descriptor has none."""
        return self._target is not None

    @property
    def target(self) -> nn.Linear:
        """The layer by whose weight and bias FUNGI differentiates, `blocks[-1].attn.proj`.

        Raises:
            FungiSegError: the descriptor has none.
        """
        if self._target is None:
            raise FungiSegError(
                f"features.kind is 'fungi', but {self.config.name!r} has no layer to take gradients of; "
                f"use features.kind plain (--features.kind plain)"
            )
        return self._target

    @property
    def last_block(self) -> nn.Module:
        """The block that `target` is in."""
        return cast(nn.Module, cast(Any, self.model).blocks[-1])

    def autocast(self) -> AbstractContextManager[None]:
        """The arithmetic of `dtype`, for the code inside."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def _norm_follows_pooling(self) -> bool:
        return isinstance(getattr(self.model, "norm", None), nn.Identity)

    @property
    def input_side(self) -> int:
        """Side in pixels of the square images that the model was made for; a multiple of the patch."""
        size = getattr(getattr(self.model, "patch_embed", None), "img_size", None) or DEFAULT_SIDE
        side = min(size) if isinstance(size, tuple | list) else int(size)
        return max(1, round(side / self.patch_size[0])) * self.patch_size[0]

    @property
    def pooled(self) -> slice:
        """Which tokens an image's embedding is made of: the CLS token, or the patch tokens of a model that averages."""
        by_class_token = self.prefix_tokens > 0 and getattr(self.model, "global_pool", "token") == "token"
        return slice(0, 1) if by_class_token else slice(self.prefix_tokens, None)

    def pool(self, block_output: Tensor) -> Tensor:
        """The embedding `[B, D]` of images, from what left the last block at the `pooled` tokens, `[B, R, D]`."""
        model = cast(Any, self.model)
        if self._norm_follows_pooling:
            return model.fc_norm(block_output.mean(1))
        return model.norm(block_output).mean(1)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches `(h, w)` of an image of `height` × `width` pixels, which must be multiples of the patch size."""
        ph, pw = self.patch_size
        if height < ph or width < pw or height % ph or width % pw:
            raise FungiSegError(
                f"image size {height}×{width} (height×width) doesn't fit patches of {ph}×{pw}: both sides must be "
                f"multiples of the patch, at least one patch; resize or pad the image (InputConfig does either)"
            )
        return height // ph, width // pw

    def tokens(self, images: Tensor) -> Tensor:
        """Last-layer tokens, normalised by the model's final norm (its `fc_norm` where it pools by averaging).

        Args:
            images: `[B, 3, H, W]` RGB, uint8 or in 0..1, sides multiples of the patch size.

        Returns:
            `[B, T, D]`, prefix tokens first; may be in `dtype`.
        """
        with self.autocast():
            tokens = self._forward(images)
            return cast(Any, self.model).fc_norm(tokens) if self._norm_follows_pooling else tokens

    def embeddings(self, images: Tensor) -> Tensor:
        """One vector an image, `[B, D]` float32: the CLS token, or the mean of the patch tokens, as the model pools.

        Args:
            images: as for `tokens`.
        """
        with self.autocast():
            pooled = self._forward(images)[:, self.pooled].mean(1)
            return (cast(Any, self.model).fc_norm(pooled) if self._norm_follows_pooling else pooled).float()

    def _forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise FungiSegError(f"images has shape {list(images.shape)}; it must be [B, 3, H, W]")
        if not images.is_floating_point() and images.dtype != torch.uint8:
            raise FungiSegError(f"images is of {images.dtype}; it must be uint8, or floating point, RGB in 0..1")
        self.grid(*images.shape[-2:])
        return cast(Any, self.model).forward_features(self.normalise(images))

    def normalise(self, images: Tensor) -> Tensor:
        """`images` as the model was trained with, float32 on the backbone's device; arguments as for `tokens`."""
        scaled = unit_range(images.to(self.device))
        return (scaled - self._mean).div_(self._std)


def unit_range(images: Tensor) -> Tensor:
    """Pixels as float32 in 0..1: of uint8 by 255, others as they are. Features are the same for both, bit by bit."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


def load_backbone(
    name: str = BackboneConfig.name,
    weights: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    model_args: Mapping[str, Any] | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> Backbone:
    """Load a frozen backbone; the arguments are those of `BackboneConfig`.

    `load_backbone("embedded")` needs no download. Any timm ViT that has `blocks[-1].attn.proj` serves: DINO, DINOv2
    with and without registers, DINOv3, MAE, CLIP, AugReg, … Inputs of any size divisible by the patch are taken;
    position embeddings are interpolated.

    Raises:
        FungiSegError: unknown name, no such file, weights that don't fit, or no way to download.
    """
    if weights and weights != RANDOM:
        weights = Path(weights).expanduser().absolute()
    config = BackboneConfig(
        name, str(weights) if weights else None, dict(model_args) if model_args else None, mean, std, device, dtype
    )
    where = _device(device)
    with torch.inference_mode(False):
        model = _create(config)
        if isinstance(weights, Path):
            _load_weights(model, weights)
        elif _is_embedded(config) and weights is None:
            _load_weights(model, embedded.weights_file())
        return Backbone(model, config, where, _dtype(dtype, where))


def _create(config: BackboneConfig) -> nn.Module:
    if config.name == descriptor.NAME and config.model_args is None:
        if config.weights:
            raise FungiSegError(f"backbone.weights is {config.weights!r}, but the descriptor has none; leave it out")
        return descriptor.Descriptor()
    model_args = embedded.MODEL_ARGS if _is_embedded(config) else config.model_args
    if model_args is not None:
        if not config.weights and not _is_embedded(config):
            raise FungiSegError(
                f"backbone.weights is empty for {config.name!r}: a model given by model_args has no pretrained weights "
                f"on the hub; pass weights=FILE (--backbone.weights FILE), or 'random'"
            )
        arguments = {"num_classes": 0, "dynamic_img_size": True} | model_args
        try:
            with _seeded():
                return VisionTransformer(**arguments)
        except Exception as error:  # timm checks little of what it is given
            raise FungiSegError(
                f"backbone.model_args don't make a timm VisionTransformer ({arguments}): {reason(error)}"
            ) from error
    names = [*timm.list_pretrained(), embedded.NAME, descriptor.NAME]
    if not timm.is_model(config.name) or ("." in config.name and config.name not in names):
        raise FungiSegError(
            f"backbone.name is {config.name!r}, which timm {timm.__version__} doesn't know"
            f"{nearest(config.name, names)}\n"
            f"A model without a timm name is given by its constructor arguments, backbone.model_args"
        )
    try:
        with _seeded():
            return timm.create_model(
                config.name, pretrained=config.weights is None, num_classes=0, dynamic_img_size=True
            )
    except TypeError as error:
        raise FungiSegError(
            f"backbone.name is {config.name!r}, which takes no dynamic image size: only plain ViTs with "
            f"blocks[-1].attn.proj can be used ({error})"
        ) from error
    except Exception as error:
        if config.weights is not None:
            raise
        raise FungiSegError(
            f"the pretrained weights of {config.name!r} can't be had from the hub ({reason(error)}). "
            f"Without a connection pass a local file: weights=FILE (--backbone.weights FILE), a .safetensors or .pth "
            f"of this model"
        ) from error


@contextmanager
def _seeded() -> Iterator[None]:
    """Random initialisation that is the same everywhere and leaves the global generator as it was."""
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def _load_weights(model: nn.Module, path: Path) -> None:
    state = _backbone_entries(_read_checkpoint(path))
    if not state:
        raise FungiSegError(f"{path}: holds no named tensors; it must be the state dict of a model")
    patch, cut = cast(Any, model).patch_embed.proj.weight, state.get("patch_embed.proj.weight")
    if cut is not None and cut.shape[-2:] != patch.shape[-2:]:
        raise FungiSegError(
            f"{path}: the weights are for patches of {list(cut.shape[-2:])} pixels, the model named has "
            f"{list(patch.shape[-2:])}; name the model they were trained with"
        )
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    own = model.state_dict()
    try:
        if convert is not None:  # other libraries' names, position embeddings of another input size
            state = convert(state, model)
        state = {k: v for k, v in state.items() if k in own or not k.startswith(NOT_BACKBONE)}
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError) as error:
        raise FungiSegError(f"{path}: the weights are those of another model than the one named:\n{error}") from error
    if missing or unexpected:
        raise FungiSegError(
            f"{path}: the weights don't fit the model named. Missing {len(missing)}:\n{listing(missing, 5)}\n"
            f"not known to the model {len(unexpected)}:\n{listing(unexpected, 5)}\n"
            f"Check that backbone.name (or model_args) is the architecture these weights were trained with"
        )


def _read_checkpoint(path: Path) -> Any:
    if not path.is_file():
        raise FungiSegError(f"backbone.weights is {str(path)!r}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # DINO's own checkpoints keep their command-line arguments beside the weights: plain data, safe to read
        allow = getattr(torch.serialization, "safe_globals", nullcontext)  # torch 2.4 has none
        with allow([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise FungiSegError(
            f"{path}: can't be read as weights ({reason(error)}). It must be a "
            f".safetensors file, or a .pth / .pt holding only tensors and plain values; code in it is never run"
        ) from error


def _backbone_entries(checkpoint: Any) -> dict[str, Tensor]:
    """The tensors of the backbone in a checkpoint that may wrap them and prefix their names."""
    if not isinstance(checkpoint, Mapping):
        return {}
    for key in CONTAINERS:
        if isinstance(checkpoint.get(key), Mapping):
            return _backbone_entries(checkpoint[key])
    state = {}
    for key, value in checkpoint.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            while key.startswith(PREFIXES):
                key = key.split(".", 1)[1]
            state[key] = value
    return state


def _target_layer(model: nn.Module, name: str) -> nn.Linear:
    try:
        layer = cast(Any, model).blocks[-1].attn.proj
    except (AttributeError, TypeError, IndexError) as error:
        raise FungiSegError(
            f"backbone {name!r} ({type(model).__name__}) has no blocks[-1].attn.proj; it must be a ViT"
        ) from error
    if not isinstance(layer, nn.Linear):
        raise FungiSegError(f"backbone {name!r}: blocks[-1].attn.proj is {type(layer).__name__}, not a linear layer")
    return layer


def _is_embedded(config: BackboneConfig) -> bool:
    return config.name == embedded.NAME and config.model_args is None


def _normalisation(model: nn.Module, config: BackboneConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if isinstance(model, descriptor.Descriptor):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if _is_embedded(config):
        return embedded.MEAN, embedded.STD
    defaults = timm.data.resolve_model_data_config(model)
    return defaults["mean"], defaults["std"]


def _patch_size(model: nn.Module, name: str) -> tuple[int, int]:
    embed = cast(Any, model).patch_embed
    size, ratio = embed.patch_size, embed.feat_ratio()
    height, width = (size, size) if isinstance(size, int) else size
    if (ratio if isinstance(ratio, tuple) else (ratio, ratio)) != (height, width):
        raise FungiSegError(
            f"backbone {name!r} cuts its patches from features of a convolutional network; it must be a plain ViT"
        )
    return int(height), int(width)


def _store_products_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Store what autocast would convert at every call in `dtype` once; the results are the same."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(dtype)


def _fingerprint(model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    digest = hashlib.sha256()
    heads = [int(cast(Any, m).num_heads) for m in model.modules() if isinstance(getattr(m, "num_heads", None), int)]
    activations = [type(cast(Any, m).act).__name__ for m in model.modules() if hasattr(m, "act")]
    digest.update(repr((heads, activations, [round(v, 6) for v in (*mean, *std)])).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise FungiSegError(
            f"backbone.device is {device!r}, which this machine doesn't have ({reason(error)}); use auto or cpu"
        ) from error
    return chosen


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        fast = torch.cuda.get_device_capability(device) >= (8, 0) if device.type == "cuda" else has_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def _three(name: str, values: Sequence[float], above: float = -math.inf) -> tuple[float, ...]:
    if len(values) != 3 or not all(above < value < math.inf for value in values):
        rule = "three numbers, R, G and B in 0..1" + (", above 0" if above == 0 else "")
        raise FungiSegError(f"backbone.{name} is {list(values)}; it must be {rule}")
    return tuple(float(value) for value in values)
