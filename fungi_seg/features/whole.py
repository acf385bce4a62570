"""Images to features of whole images: the embedding, and projected gradients of self-supervised objectives (FUNGI)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fungi_seg.errors import DataError, FungiSegError
from fungi_seg.features.backbones import Backbone
from fungi_seg.features.finite import check_finite
from fungi_seg.features.gradients import PooledForward, pooled_embeddings, pooled_forward
from fungi_seg.features.memory import image_memory, shortage
from fungi_seg.features.objectives import KL, DeepCluster, Dino, NeedsSupport, Objective, SimCLR
from fungi_seg.features.projection import Projection, make_projection
from fungi_seg.features.settings import OBJECTIVES, ImageFeatureConfig
from fungi_seg.features.views import CentreCrop, MultiCrop, SlidingPatches, Views
from fungi_seg.images import to_array
from fungi_seg.progress import track

R = TypeVar("R")
EMBEDDING = "embedding"
RESERVED = ("labels",)  # what stands beside the parts on disk
HEADS = 2_000_003  # the streams of the heads' random numbers, 10 apart, away from that of the projection
TOKENS_AT_ONCE, TOKENS_AT_ONCE_GPU = 1600, 65_536

Prepared = Mapping[Views, Tensor]


def make_objectives(config: ImageFeatureConfig, backbone: Backbone) -> list[Objective]:
    """The objectives that `config` names, in its order.

    Raises:
        FungiSegError: a side that the patches don't divide.
    """
    side = config.side or backbone.input_side
    backbone.grid(side, side)
    crops = MultiCrop(side)
    patches = crops if config.fast else SlidingPatches(side)
    width, seeds = backbone.dim, {name: config.seed + HEADS + 10 * i for i, name in enumerate(OBJECTIVES)}
    made: dict[str, Any] = {
        "kl": lambda seed: KL(CentreCrop(side), width, seed),
        "dino": lambda seed: Dino(crops, width, seed),
        "simclr": lambda seed: SimCLR(patches, width, seed),
        "deepcluster": lambda seed: DeepCluster(crops, width, seed, config.clusters),
    }
    return [made[name](seeds[name]) for name in config.objectives]


class ImageFeatures:
    """Callable: images to `[B, D]` features, an embedding and projected gradients, each of length 1, side by side.

    Once it is fitted, threads may call it at the same time.

    The gradients are those of self-supervised losses by the weight and bias of the last `attn.proj` (FUNGI, Simoncini
    et al., NeurIPS 2024). A feature depends on its own image alone, never on the rest of the batch; crops are drawn
    from the seed and a checksum of the image.

    Args:
        backbone: the frozen ViT.
        config: what to compute.
        objectives: objectives of one's own, which take the place of those that `config` names.
        support: what `support` of another `ImageFeatures` of the same backbone and config holds; spares `fit`.

    Attributes:
        parts: `("embedding", …)` and the objectives' names, in the order of a feature.
        widths: length of each part.
        dim: `D`, their sum.
        support: for each objective that is held against a support set, the embeddings `[S, V, ·]` float16 of its views.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: ImageFeatureConfig | None = None,
        objectives: Sequence[Objective] | None = None,
        support: Mapping[str, Tensor] | None = None,
    ):
        self.backbone, self.config = backbone, config or ImageFeatureConfig()
        config = self.config
        with torch.inference_mode(False):
            self.objectives = list(make_objectives(config, backbone) if objectives is None else objectives)
        self.parts = (EMBEDDING, *(objective.name for objective in self.objectives))
        for name in self.parts:
            if self.parts.count(name) > 1 or name in RESERVED or not re.fullmatch(r"[\w-]+", name):
                raise FungiSegError(
                    f"objectives has one named {name!r}; each needs a name of its own, of letters, digits, - and _, "
                    f"other than embedding and {', '.join(RESERVED)}"
                )
        side = config.side or backbone.input_side
        backbone.grid(side, side)
        self.whole = CentreCrop(side)
        self.widths = {EMBEDDING: backbone.dim}
        if self.objectives:
            length = config.projection_dim or backbone.dim
            self.widths |= {objective.name: length for objective in self.objectives}
            with torch.inference_mode(False):
                self.projection: Projection = make_projection(
                    config.projection, length, backbone.target, config.seed, backbone.device
                )
        self.dim = sum(self.widths.values())
        self.support: dict[str, Tensor] = {}
        self.use_support(support or {})

    @property
    def needs_support(self) -> bool:
        """Whether an objective still waits for `fit`."""
        return any(objective.name not in self.support for objective in self._held_against_support())

    def fit(self, images: Sequence[Any], skip_bad: bool = False, progress: bool = False) -> ImageFeatures:
        """Take the support set from training images, `config.support` of them at most, drawn by the seed.

        Args:
            images: what `prepare` takes; no labels are needed.
            skip_bad: skip images that can't be used, and take others.
            progress: report on standard error.

        Raises:
            DataError: an image can't be used.
            FungiSegError: no image, or too few for an objective.
        """
        waiting = self._held_against_support()
        if not waiting:
            return self
        if not len(images):
            raise FungiSegError("images is empty; a support set needs training images")
        order = np.random.default_rng(self.config.seed).permutation(len(images))
        found: dict[Views, list[Tensor]] = {objective.views: [] for objective in waiting}
        count, wanted = 0, min(self.config.support, len(images))
        for index in track(order, wanted, "support set", show=progress):
            try:
                image = to_array(images[index])
            except DataError:
                if skip_bad:
                    continue
                raise
            for views, embeddings in found.items():
                embeddings.append(self._embed_views([self._cut(image, views)]))
            count += 1
            if count == wanted:
                break
        if not count:
            raise DataError(f"none of the {len(images)} training images can be read; a support set needs some")
        self.use_support({o.name: torch.cat(found[o.views]).to("cpu", torch.float16) for o in waiting})
        return self

    def use_support(self, support: Mapping[str, Tensor]) -> None:
        """Take the support set that another `ImageFeatures` of the same backbone and config was fitted to."""
        for objective in self._held_against_support():
            if objective.name in support:
                embeddings = support[objective.name]
                if embeddings.shape[1:] != (objective.views.count, self.backbone.dim):
                    raise FungiSegError(
                        f"support of {objective.name!r} has shape {list(embeddings.shape)}; it must be "
                        f"[S, {objective.views.count}, {self.backbone.dim}], of the same backbone and views: call fit"
                    )
                self.support[objective.name] = embeddings
                with torch.inference_mode(False), torch.no_grad():
                    objective.fit(embeddings.to(self.backbone.device).float().clone())

    def prepare(self, image: Any) -> Prepared:
        """Cut all views out of one image: a path, a PIL image, an array or a tensor, as `images.to_array` takes.

        Needs no backbone and may run in another thread.
        """
        pixels = to_array(image)
        kinds = dict.fromkeys([self.whole, *(objective.views for objective in self.objectives)])
        return {views: self._cut(pixels, views) for views in kinds}

    def __call__(self, images: Sequence[Any], batch_size: int = 4) -> Tensor:
        """Features of images of any size.

        Args:
            images: `B` of what `prepare` takes.
            batch_size: how many are worked through at once; changes the speed and the memory, never the result.

        Returns:
            `[B, D]` float32, each part of length 1.

        Raises:
            FungiSegError: an image of a kind that can't be used, or features that aren't finite; it is named, or its
                place in `images` is.
        """
        if batch_size < 1:
            raise FungiSegError(f"batch_size is {batch_size}; it must be at least 1")
        rows = [torch.empty(0, self.dim, device=self.backbone.device)]
        for start in range(0, len(images), batch_size):
            batch = list(images[start : start + batch_size])
            names = [str(x) if isinstance(x, str | Path) else f"image {i}" for i, x in enumerate(batch, start)]
            found = self.from_views([self._prepare_named(x, name) for x, name in zip(batch, names, strict=True)])
            check_finite(found, names)
            rows.append(torch.cat([found[part] for part in self.parts], dim=-1))
        return torch.cat(rows)

    def from_views(self, prepared: Sequence[Prepared]) -> dict[str, Tensor]:
        """Parts of the features of `B` prepared images, by name: `[B, ·]` float32, each row of length 1.

        Raises:
            FungiSegError: memory doesn't suffice.
        """
        self._check_memory(len(prepared))
        found: dict[str, Tensor] = {}
        with torch.inference_mode(False), torch.no_grad():
            if not self.objectives:
                found[EMBEDDING] = self._embed_views([p[self.whole] for p in prepared])[:, 0]
            else:
                for views in prepared[0]:
                    found |= self._differentiate(views, [p[views] for p in prepared])
        return {part: F.normalize(rows, dim=-1) for part, rows in found.items()}

    def _differentiate(self, views: Views, cut: Sequence[Tensor]) -> dict[str, Tensor]:
        """Projected gradients `[B, ·]` of the objectives that look at `views`, and the embedding if it does."""
        shape, found = (len(cut), views.count), {}
        forward = PooledForward.cat(self._in_chunks(cut, lambda chunk: pooled_forward(self.backbone, chunk)))
        forward.outputs.requires_grad_()
        with torch.enable_grad():
            embeddings = pooled_embeddings(self.backbone, forward).unflatten(0, shape)
            for objective in self.objectives:
                if objective.views == views:
                    loss = objective.loss(embeddings)
                    if loss.shape != shape[:1] or not loss.requires_grad:
                        raise FungiSegError(
                            f"the loss of objective {objective.name!r} has shape {list(loss.shape)}, for embeddings of "
                            f"{list(embeddings.shape)}; it must be [{len(cut)}], one for each sample, with a graph"
                        )
                    (by_output,) = torch.autograd.grad(loss.sum(), forward.outputs, retain_graph=True)
                    projected = self.projection(by_output, forward.inputs)
                    found[objective.name] = projected.detach().unflatten(0, shape).sum((1, 2))
        if views == self.whole:
            found[EMBEDDING] = embeddings.detach()[:, 0]
        return found

    def _prepare_named(self, image: Any, name: str) -> Prepared:
        try:
            return self.prepare(image)
        except FungiSegError as error:
            raise error if name in str(error) else type(error)(f"{name}: {error}") from error

    def _held_against_support(self) -> list[Any]:
        return [objective for objective in self.objectives if isinstance(objective, NeedsSupport)]

    def _cut(self, pixels: np.ndarray, views: Views) -> Tensor:
        generator = np.random.default_rng([self.config.seed, checksum(pixels)])
        return views(torch.from_numpy(np.array(pixels)).permute(2, 0, 1), generator)

    def _embed_views(self, cut: Sequence[Tensor]) -> Tensor:
        """Embeddings `[B, V, D]` of the views of `B` images, without a graph."""
        with torch.no_grad():
            return torch.cat(self._in_chunks(cut, self.backbone.embeddings)).unflatten(0, (len(cut), -1))

    def _in_chunks(self, cut: Sequence[Tensor], function: Callable[[Tensor], R]) -> list[R]:
        images = torch.cat(list(cut))
        height, width = self.backbone.grid(*images.shape[-2:])
        return [function(chunk) for chunk in images.split(self._views_at_once(height * width))]

    def _views_at_once(self, patches: int) -> int:
        """Views of so many patches that go through the backbone together."""
        tokens = TOKENS_AT_ONCE if self.backbone.device.type == "cpu" else TOKENS_AT_ONCE_GPU
        return max(1, tokens // patches)

    def _check_memory(self, images: int) -> None:
        side = self.whole.side
        height, width = self.backbone.grid(side, side)
        patches, views = height * width, max((o.views.count for o in self.objectives), default=1)
        at_once = min(self._views_at_once(patches), images * views)
        missing = shortage(image_memory(self.backbone, patches, at_once, views, images))
        if missing:
            raise FungiSegError(
                f"features.side is {side}, {patches} patches a view, and {images} images of up to {views} views are "
                f"worked through at once, which needs {missing}: give a smaller features.side or load.batch_size"
            )


def checksum(pixels: np.ndarray) -> int:
    """CRC-32 of an image's pixels."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)
