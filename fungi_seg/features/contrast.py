"""The gradient of the patches' contrast, in closed form: no graph, and no matrix of all similarities."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fungi_seg.features.objectives import check_views

CHUNK_VALUES = 2**19  # similarities of an image at once: 2 MB, which stay in a processor's cache
SMALLEST = 1e-12  # as of F.normalize


def contrast_gradient(latents: Tensor, temperature: float, negatives: Tensor | None = None) -> Tensor:
    """The gradient of `info_nce(latents, temperature, negatives)` by `latents`.

    With `u` the latents at length 1, `s` their inner products, `w_i = 1 / Σ_j exp s_ij` over all others and negatives,
    and `V` views, the derivative by `u_i` is

    `[ Σ_{j≠i} (w_i + w_j) exp(s_ij) u_j + w_i Σ_r exp(s_ir) n_r − 2 Σ_{j≠i} u_j / (τ (V − 1)) ] / V`.

    Exponentials need no care: similarities are −1 to 1. Memory grows with `V`, not with its square.

    Args:
        latents: `[B, V, d]` float, V ≥ 2.
        temperature: τ > 0.
        negatives: `[B, R, d]` float, or none.

    Returns:
        `[B, V, d]`.

    Raises:
        FungiSegError: fewer than two views.
    """
    views = latents.shape[1]
    check_views(views)
    lengths = latents.norm(dim=-1, keepdim=True).clamp_min_(SMALLEST)
    units = latents / lengths
    against = None if negatives is None else F.normalize(negatives, dim=-1)
    found = (units - units.sum(1, keepdim=True)).mul_(2 / (temperature * (views - 1)))
    rows = max(1, CHUNK_VALUES // views)  # of an image, whatever the batch: so its bits don't depend on that
    for start in range(0, views, rows):
        part = units[:, start : start + rows]
        likeness = (part @ units.transpose(1, 2)).exp_()
        likeness.diagonal(start, 1, 2).zero_()
        total, pushed = likeness.sum(-1, keepdim=True), likeness @ units
        if against is not None:
            foreign = (part @ against.transpose(1, 2)).exp_()
            total += foreign.sum(-1, keepdim=True)
            pushed += foreign @ against
        weights = total.reciprocal_()
        found[:, start : start + rows] += pushed.mul_(weights)
        found.baddbmm_(likeness.transpose(1, 2), part * weights)
    along = (found * units).sum(-1, keepdim=True)
    return found.addcmul_(along, units, value=-1).div_(lengths * views)
