"""Run a backbone, cut the graph at the target layer, return the two factors of each gradient.

The gradient of a loss by the weight and bias of a linear layer is, for one token, the rank-one matrix
`outer(b, [a; 1])`: `a` is what enters the layer, `b` the derivative of the loss by what leaves it. Nothing before the
cut joins a graph, so the backward pass is the tail of the last block alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fungi_seg.backbones import Backbone


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

    def cut(_: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        kept["inputs"] = inputs[0]
        kept["cut"] = output.detach().requires_grad_()
        return kept["cut"]

    handle = backbone.target.register_forward_hook(cut)
    try:
        tokens = backbone.tokens(images)
    finally:
        handle.remove()
    return CutForward(tokens, kept["inputs"], kept["cut"])
