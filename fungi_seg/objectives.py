"""Self-supervised losses: latents in, one loss per sample out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fungi_seg.errors import FungiSegError

SELF_SIMILARITY = -1e4


def info_nce(latents: Tensor, temperature: float, negatives: Tensor | None = None) -> Tensor:
    """InfoNCE over the views of each sample, every other view being a positive.

    `mean over views i of [ logsumexp_j s_ij − Σ_{j≠i} s_ij / (τ (V − 1)) ]`, where `s` are cosine similarities to the
    sample's views (its own lowered by 1e4, out of reach) and to its negatives. As in the code published with the paper
    for patches, the temperature τ divides the positives alone (FUNGI, Simoncini et al. 2024, section 3).

    Args:
        latents: `[B, V, d]` float, V ≥ 2.
        temperature: τ > 0.
        negatives: `[B, R, d]` float, or none.

    Returns:
        `[B]` losses.

    Raises:
        FungiSegError: fewer than two views.
    """
    views = latents.shape[1]
    if views < 2:
        raise FungiSegError(f"latents has {views} view a sample; a contrast needs at least two: use a larger image")
    latents = F.normalize(latents, dim=-1)
    others = latents.sum(1, keepdim=True) - latents
    positives = (latents * others).sum(-1) / (temperature * (views - 1))
    own = (
        torch.eye(views, device=latents.device, dtype=latents.dtype).mul_(SELF_SIMILARITY).expand(len(latents), -1, -1)
    )
    candidates = torch.baddbmm(own, latents, latents.transpose(1, 2))
    if negatives is not None:
        against = latents @ F.normalize(negatives, dim=-1).transpose(1, 2)
        candidates = torch.cat([candidates, against], dim=-1)
    return (candidates.logsumexp(-1) - positives).mean(-1)
