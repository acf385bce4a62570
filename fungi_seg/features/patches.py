"""Images to patch features: plain tokens, or tokens with projected self-supervised gradients (FUNGI)."""

from __future__ import annotations

import zlib

import torch
import torch.nn.functional as F
from torch import Tensor

from fungi_seg.errors import FungiSegError
from fungi_seg.features.backbones import Backbone
from fungi_seg.features.gradients import forward_with_cut
from fungi_seg.features.objectives import Head, info_nce
from fungi_seg.features.projection import Projection, make_projection
from fungi_seg.features.settings import FeatureConfig

HEAD_STREAM = 1_000_003  # the head's random numbers are not the projection's


class PatchFeatures:
    """Callable: `[B, 3, H, W]` images to `[B, N, D]` L2-normalised patch features.

    A feature depends on its own image alone, never on the rest of the batch. `plain` is the last-layer patch token;
    `fungi` is `normalise([normalise(token), normalise(projected gradient)])`, the gradient being that of the patch
    SimCLR loss by the weight and bias of the last `attn.proj` (FUNGI, Simoncini et al., NeurIPS 2024).

    Args:
        backbone: the frozen ViT.
        config: what to compute.
        support: `[S, D]` L2-normalised plain embeddings, where `config.negatives` > 0.

    Attributes:
        dim: `D` of the result.
    """

    def __init__(self, backbone: Backbone, config: FeatureConfig | None = None, support: Tensor | None = None):
        self.backbone, self.config = backbone, config or FeatureConfig()
        config = self.config
        self.dim = backbone.dim
        if config.kind == "plain":
            return
        gradient_dim = config.projection_dim or backbone.dim
        self.dim += gradient_dim
        with torch.inference_mode(False):
            self._prepare_gradients(gradient_dim, support)

    def _prepare_gradients(self, gradient_dim: int, support: Tensor | None) -> None:
        config, backbone = self.config, self.backbone
        device = backbone.device
        self.projection: Projection = make_projection(
            config.projection, gradient_dim, backbone.target, config.seed, device, backbone.dtype
        )
        self.head = Head(backbone.dim, config.head_dim, config.seed + HEAD_STREAM)
        if config.needs_support:
            self.support = self._check_support(support).to(device, torch.float32)

    def __call__(self, images: Tensor) -> Tensor:
        """Features of `images`.

        Args:
            images: `[B, 3, H, W]` RGB in 0..1, sides multiples of the patch size.

        Returns:
            `[B, N, D]` float32, row-major over the `h × w` patch grid, each of length 1.

        Raises:
            FungiSegError: a size that isn't a multiple of the patch, another shape or type, or non-finite features.
        """
        with torch.inference_mode(False), torch.no_grad():
            if self.config.kind == "plain":
                features = self.backbone.tokens(images).float()
            else:
                features = torch.cat(self.parts(images), dim=-1)
        features = F.normalize(features[:, self.backbone.prefix_tokens :], dim=-1)
        if not torch.isfinite(features).all():
            raise FungiSegError("features are not finite; use dtype float32, and check the weights and the image")
        return features

    def parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised tokens and normalised projected gradients of all tokens, prefix included, `[B, T, ·]` each."""
        with torch.inference_mode(False), torch.enable_grad():
            forward = forward_with_cut(self.backbone, images)
            tokens = forward.tokens.float()
            latents = self.head(tokens)
        embeddings = F.normalize(tokens.detach(), dim=-1)
        # The loss is differentiated image by image: its V × V similarities are the largest tensors of all
        by_latents = torch.empty_like(latents)
        for i, image in enumerate(images):
            latent = latents[i : i + 1].detach().requires_grad_()
            with torch.enable_grad():
                loss = info_nce(latent, self.config.temperature, self._negatives(embeddings[i], image))
                by_latents[i] = torch.autograd.grad(loss.sum(), latent)[0][0]
        (by_output,) = torch.autograd.grad(latents, forward.cut, by_latents)
        gradients = self.projection(by_output, forward.inputs)
        return embeddings, F.normalize(gradients, dim=-1)

    def _negatives(self, embeddings: Tensor, image: Tensor) -> Tensor | None:
        """Encoded negatives `[1, R, head_dim]` of an image: a random part of its tokens' nearest in the support set."""
        if not self.config.needs_support:
            return None
        count = min(self.config.negatives, len(self.support))
        nearest = (embeddings @ self.support.T).topk(count, dim=-1).indices.flatten()
        generator = torch.Generator().manual_seed(self.config.seed ^ zlib.crc32(image.float().cpu().numpy().tobytes()))
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
