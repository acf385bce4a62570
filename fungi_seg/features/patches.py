"""Images to patch features: plain tokens, or tokens with projected self-supervised gradients (FUNGI)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fungi_seg.errors import DataError, FungiSegError, reason
from fungi_seg.features.backbones import Backbone, unit_range
from fungi_seg.features.contrast import CHUNK_VALUES, contrast_gradient
from fungi_seg.features.finite import check_finite
from fungi_seg.features.gradients import forward_with_cut
from fungi_seg.features.memory import patch_memory, shortage
from fungi_seg.features.objectives import Head
from fungi_seg.features.projection import Projection, make_projection
from fungi_seg.features.settings import FeatureConfig
from fungi_seg.hardware import is_out_of_memory
from fungi_seg.images import Fitted, InputConfig, Tiles, blended, fit_image, input_size, tiles_for

PATCHES_AT_ONCE = 4096  # of tiles: larger batches take more memory, and are no faster on a CPU
GRID = 3  # copies of a whole image's features that are held while tiles are put together
HEAD_STREAM = 1_000_003  # the head's random numbers are not the projection's


def feature_width(backbone: Backbone, config: FeatureConfig) -> int:
    """How many numbers a patch's feature has, of one picture."""
    return backbone.dim + (0 if config.kind == "plain" else config.projection_dim or backbone.dim)


class PatchFeatures:
    """Callable: `[B, 3, H, W]` images to `[B, N, D]` L2-normalised patch features.

    A feature depends on its own image alone, never on the rest of the batch. `plain` is the last-layer patch token;
    `fungi` is `normalise([normalise(token), normalise(projected gradient)])`, the gradient being that of the patch
    SimCLR loss by the weight and bias of the last `attn.proj` (FUNGI, Simoncini et al., NeurIPS 2024). Threads may call
    it at the same time.

    Args:
        backbone: the frozen ViT.
        config: what to compute.
        support: `[S, D]` L2-normalised plain embeddings, where `config.negatives` > 0.
        channels: how many images have, `[B, channels, H, W]`, where each goes through the backbone by itself, as grey:
            the tokens of all are joined, and then the gradients of all. By default they are RGB.

    Attributes:
        dim: `D` of the result.
        channels: as given.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: FeatureConfig | None = None,
        support: Tensor | None = None,
        channels: int | None = None,
    ):
        self.backbone, self.config, self.channels = backbone, config or FeatureConfig(), channels
        config = self.config
        if channels is not None and config.needs_support:
            raise FungiSegError(
                f"features.negatives is {config.negatives}, and input.channels all, whose features are contrasted with "
                f"those of the image alone: set features.negatives to 0"
            )
        self.dim = feature_width(backbone, config) * (channels or 1)
        if config.kind == "plain":
            return
        with torch.inference_mode(False):
            self._prepare_gradients(config.projection_dim or backbone.dim, support)

    def _prepare_gradients(self, gradient_dim: int, support: Tensor | None) -> None:
        config, backbone = self.config, self.backbone
        device = backbone.device
        self.projection: Projection = make_projection(
            config.projection, gradient_dim, backbone.target, config.seed, device, backbone.dtype
        )
        self.head = Head(backbone.dim, config.head_dim, config.seed + HEAD_STREAM)
        if config.needs_support:
            self.support = self._check_support(support).to(device, torch.float32)

    def __call__(self, images: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Features of `images`.

        Args:
            images: `[B, 3, H, W]` RGB, uint8 or in 0..1, sides multiples of the patch size; or of so many channels as
                go through the backbone by themselves.
            names: what errors call the images; their places by default.

        Returns:
            `[B, N, D]` float32, row-major over the `h × w` patch grid, each of length 1.

        Raises:
            FungiSegError: a size that isn't a multiple of the patch, another shape or type, or non-finite features.
            DataError: memory doesn't suffice.
        """
        names = [f"image {i}" for i in range(len(images))] if names is None else names
        with self._enough_memory(images, names), torch.inference_mode(False), torch.no_grad():
            features = self._of_rgb(images) if self.channels is None else self._of_channels(images, self.channels)
            features = F.normalize(features[:, self.backbone.prefix_tokens :], dim=-1)
        check_finite({self.config.kind: features}, names)
        return features

    def _of_rgb(self, images: Tensor) -> Tensor:
        if self.config.kind == "plain":
            return self.backbone.tokens(images).float()
        return torch.cat(self.parts(images), -1)

    def _of_channels(self, images: Tensor, count: int) -> Tensor:
        """Tokens of all channels, then gradients of all, those of each channel of unit length."""
        if images.ndim != 4 or images.shape[1] != count:
            raise FungiSegError(f"images are {list(images.shape)}; these features are of [B, {count}, H, W]")
        shown = [images[:, number : number + 1].expand(-1, 3, -1, -1) for number in range(count)]
        if self.config.kind == "plain":
            return torch.cat([F.normalize(self.backbone.tokens(one).float(), dim=-1) for one in shown], -1)
        tokens, gradients = zip(*(self.parts(one) for one in shown), strict=True)
        return torch.cat([*tokens, *gradients], -1)

    def of(self, fitted: Sequence[Fitted], names: Sequence[str] | None = None) -> Tensor:
        """Features of images at the input size, all of one; of those that enter in tiles, put together from theirs.

        Where tiles overlap, a patch's feature is the mean of theirs, weighted so that it changes smoothly from one to
        the next, and of unit length again (of `fungi` both halves are, before they are joined).

        Args:
            fitted: from `fit_image`.
            names: what errors call the images.

        Returns:
            As of calling this object.
        """
        tiles = fitted[0].tiles
        if tiles is None or len(tiles) == 1:
            return self(torch.stack([one.image for one in fitted]), names)
        names = [f"image {i}" for i in range(len(fitted))] if names is None else names
        return torch.stack([self._in_tiles(one.image, tiles, name) for one, name in zip(fitted, names, strict=True)])

    def _in_tiles(self, image: Tensor, tiles: Tiles, name: str) -> Tensor:
        """`[N, D]` features of an image `[3, H, W]`."""
        ph, pw = self.backbone.patch_size
        parts = (
            image[:, t.rows.start * ph : t.rows.stop * ph, t.columns.start * pw : t.columns.stop * pw]
            for number in range(tiles.shape[0])
            for t in tiles.row(number)
        )
        total = blended(tiles, self.of_tiles(parts, name))
        return torch.from_numpy(self.normalised(total)).flatten(0, 1)

    def of_tiles(self, tiles: Iterable[Tensor], name: str) -> Iterator[np.ndarray]:
        """`[h, w, D]` float32 features of each tile `[3, height, width]`, all of one size.

        Args:
            tiles: of an image, some of which go through the backbone together.
            name: what errors call the image.
        """
        ph, pw = self.backbone.patch_size
        for batch in _batches(tiles, (ph, pw)):
            found = self(torch.stack(batch), [name] * len(batch)).cpu().numpy()
            yield from found.reshape(len(batch), batch[0].shape[1] // ph, batch[0].shape[2] // pw, -1)

    def normalised(self, sums: np.ndarray) -> np.ndarray:
        """Weighted sums of features, `[…, D]` float32, as features: each part of unit length, and the whole."""
        count, token = self.channels or 1, self.backbone.dim
        gradient = self.dim // count - token
        starts = [n * token for n in range(1, count + 1)] + [count * token + n * gradient for n in range(1, count)]
        parts = [
            part / np.linalg.norm(part, axis=-1, keepdims=True) for part in np.split(sums, starts, -1) if part.size
        ]
        return np.concatenate(parts, -1) / np.float32(np.sqrt(len(parts)))

    def fit_image(self, image: np.ndarray, input: InputConfig) -> Fitted:
        """`[H, W, 3]` uint8 at the input size, ready for these features; or of so many channels as they are of.

        Raises:
            DataError: it would be smaller than a patch, its features would need more memory than is free, or it has
                another number of channels.
        """
        if self.channels is not None and image.shape[2] != self.channels:
            raise DataError(
                f"has {image.shape[2]} channels, the first annotated image {self.channels}; with input.channels all "
                f"every image has as many, in the same order"
            )
        patch = self.backbone.patch_size
        padded = input_size((image.shape[0], image.shape[1]), input, patch)[1]
        tiles = tiles_for(padded, input, patch) if input.scaled else None
        if tiles and len(tiles) > 1:
            self._check_grid_memory(padded, tiles)
        else:
            self._check_memory(padded)
        return fit_image(image, input, patch)

    def _check_grid_memory(self, padded: tuple[int, int], tiles: Tiles) -> None:
        """Raise a DataError unless there is memory for the features of all tiles together."""
        missing = shortage(GRID * 4 * tiles.grid[0] * tiles.grid[1] * self.dim)
        if missing:
            raise DataError(
                f"the image enters as {padded[0]}×{padded[1]} (height×width) in {len(tiles)} tiles, whose features "
                f"together need {missing}: give a smaller input.scale"
            )

    def _check_memory(self, size: tuple[int, int], images: int = 1) -> None:
        """Raise a DataError unless there is memory for images of `size`, `(height, width)` at the input size."""
        height, width = self.backbone.grid(*size)
        missing = shortage(patch_memory(self.backbone, self.config, height * width, images))
        if missing:
            what = f"{images} images at once enter" if images > 1 else "the image enters"
            smaller = "a smaller load.batch_size" if images > 1 else "input.keep_aspect false"
            raise DataError(
                f"{what} as {size[0]}×{size[1]} (height×width), {height * width} patches, whose features need "
                f"{missing}: give a smaller input.size, or {smaller}"
            )

    @contextmanager
    def _enough_memory(self, images: Tensor, names: Sequence[str]) -> Iterator[None]:
        """A DataError that names the images, where there isn't memory for them, before work or in the middle of it."""
        try:
            if images.ndim == 4 and images.shape[1] == (self.channels or 3):  # otherwise the backbone refuses them
                self._check_memory((images.shape[2], images.shape[3]), len(images))
            yield
        except DataError as error:
            raise DataError(f"{', '.join(names)}: {error}") from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise DataError(
                f"{', '.join(names)}: out of memory while features of {list(images.shape)} were computed "
                f"({reason(error)}): give a smaller input.size, or a smaller load.batch_size"
            ) from error

    def parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised tokens and normalised projected gradients of all tokens, prefix included, `[B, T, ·]` each."""
        with torch.inference_mode(False), torch.enable_grad():
            forward = forward_with_cut(self.backbone, images)
            tokens = forward.tokens.float()
            latents = self.head(tokens)
        embeddings = F.normalize(tokens.detach(), dim=-1)
        found = (self._negatives(tokens, image) for tokens, image in zip(embeddings, images, strict=True))
        negatives = [encoded for encoded in found if encoded is not None]
        against = torch.cat(negatives) if negatives else None
        by_latents = contrast_gradient(latents.detach(), self.config.temperature, against)
        (by_output,) = torch.autograd.grad(latents, forward.cut, by_latents)
        gradients = self.projection(by_output, forward.inputs)
        return embeddings, F.normalize(gradients, dim=-1)

    def _negatives(self, embeddings: Tensor, image: Tensor) -> Tensor | None:
        """Encoded negatives `[1, R, head_dim]` of an image: a random part of its tokens' nearest in the support set."""
        if not self.config.needs_support:
            return None
        count = min(self.config.negatives, len(self.support))
        parts = embeddings.split(max(1, CHUNK_VALUES // len(self.support)))
        nearest = torch.cat([(part @ self.support.T).topk(count, dim=-1).indices for part in parts]).flatten()
        checksum = zlib.crc32(unit_range(image).cpu().numpy().tobytes())
        generator = torch.Generator().manual_seed(self.config.seed ^ checksum)
        order = torch.randperm(len(nearest), generator=generator)
        kept = order[: max(1, round(len(order) * self.config.keep_negatives))].to(nearest.device)
        return self.head(self.support[nearest[kept]]).unsqueeze(0)

    def _check_support(self, support: Tensor | None) -> Tensor:
        if support is None or support.ndim != 2 or not len(support):
            raise FungiSegError(
                f"features.negatives is {self.config.negatives}, which needs a support set [S, {self.backbone.dim}]; "
                f"got {None if support is None else list(support.shape)}. Build the bank with these features (it makes "
                f"and carries one) or set features.negatives to 0"
            )
        if support.shape[1] != self.backbone.dim:
            raise FungiSegError(f"support is {support.shape[1]} wide; the backbone's tokens are {self.backbone.dim}")
        return support


def _batches(tiles: Iterable[Tensor], patch: tuple[int, int]) -> Iterator[list[Tensor]]:
    """Tiles, all of one size, that go through the backbone together."""
    each = iter(tiles)
    for first in each:
        patches = first.shape[1] // patch[0] * (first.shape[2] // patch[1])
        yield [first, *islice(each, max(0, PATCHES_AT_ONCE // patches - 1))]
