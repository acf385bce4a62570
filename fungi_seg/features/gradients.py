"""Run a backbone, cut the graph at the target layer, return the two factors of each gradient.

The gradient of a loss by the weight and bias of a linear layer is, for one token, the rank-one matrix
`outer(b, [a; 1])`: `a` is what enters the layer, `b` the derivative of the loss by what leaves it. Nothing before the
cut joins a graph, so the backward pass is the tail of the last block alone. Where a loss sees pooled tokens only, `b`
is zero elsewhere: that tail is run again for them by themselves, and the rest never joins a graph at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fungi_seg.features.backbones import Backbone


@dataclass(frozen=True)
class CutForward:
    """A forward pass whose graph begins at the target layer's output.

    Attributes:
        tokens: `[B, T, D]` last-layer tokens, prefix first.
        inputs: `[B, T, d_in]` what entered the target layer.
        cut: `[B, T, d_out]` what left it; the leaf of the graph.
    """

    tokens: Tensor
    inputs: Tensor
    cut: Tensor


def forward_with_cut(backbone: Backbone, images: Tensor) -> CutForward:
    """Tokens of `images` (`[B, 3, H, W]`, RGB in 0..1) with the graph cut at the target layer."""
    kept: dict[str, Tensor] = {}

    def cut(inputs: Tensor, output: Tensor) -> Tensor:
        kept["inputs"] = inputs
        kept["cut"] = output.detach().requires_grad_()
        return kept["cut"]

    with backbone.at_target.asking(cut):
        tokens = backbone.tokens(images)
    return CutForward(tokens, kept["inputs"], kept["cut"])


@dataclass(frozen=True)
class PooledForward:
    """A forward pass as far as the target layer, at the `R` tokens that an image's embedding is made of.

    Attributes:
        inputs: `[V, R, d_in]` what entered the target layer.
        outputs: `[V, R, d_out]` what left it.
        entered: `[V, R, D]` what entered the block that the layer is in.
    """

    inputs: Tensor
    outputs: Tensor
    entered: Tensor

    @staticmethod
    def cat(parts: list[PooledForward]) -> PooledForward:
        """One after the other along the views."""
        return PooledForward(*(torch.cat([getattr(p, n) for p in parts]) for n in ("inputs", "outputs", "entered")))


def pooled_forward(backbone: Backbone, images: Tensor) -> PooledForward:
    """Run `images` (`[V, 3, H, W]` uint8, or RGB in 0..1) without a graph."""
    kept: dict[str, Tensor] = {}

    def keep(inputs: Tensor, output: Tensor) -> None:
        kept["inputs"], kept["outputs"] = (t[:, backbone.pooled].clone() for t in (inputs, output))

    def enter(inputs: Tensor, _: Tensor) -> None:
        kept["entered"] = inputs[:, backbone.pooled].clone()

    with torch.no_grad(), backbone.at_target.asking(keep), backbone.at_last_block.asking(enter):
        backbone.tokens(images)
    return PooledForward(**kept)


def pooled_embeddings(backbone: Backbone, forward: PooledForward) -> Tensor:
    """Embeddings `[V, D]` float32 from what was kept; a graph leads back to `forward.outputs` if they ask for one.

    What follows the target layer treats each token by itself, so that a few tokens suffice.
    """
    with backbone.at_target.asking(lambda *_: forward.outputs), backbone.autocast():
        return backbone.pool(backbone.last_block(forward.entered)).float()
