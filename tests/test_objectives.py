"""Self-supervised losses against definitions written out as loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fungi_seg.objectives import info_nce


def naive_info_nce(latents: Tensor, temperature: float, negatives: Tensor | None = None) -> list[float]:
    """The formula in the docstring of `info_nce`, term by term, in Python floats."""

    def cosine(x: Tensor, y: Tensor) -> float:
        return float(x.double() @ y.double() / (x.double().norm() * y.double().norm()))

    losses = []
    for sample, views in enumerate(latents):
        total = 0.0
        for i, view in enumerate(views):
            positives = [cosine(view, other) for j, other in enumerate(views) if j != i]
            against = [] if negatives is None else [cosine(view, negative) for negative in negatives[sample]]
            candidates = sum(math.exp(s) for s in positives + against)
            total += math.log(candidates) - sum(positives) / (temperature * len(positives))
        losses.append(total / len(views))
    return losses


@pytest.mark.parametrize("views", [2, 3, 7])
@pytest.mark.parametrize("negatives", [0, 1, 5])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_info_nce_is_its_formula(views: int, negatives: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(views * 10 + negatives)
    latents = torch.randn(3, views, 5, generator=generator)
    against = torch.randn(3, negatives, 5, generator=generator) if negatives else None
    expected = torch.tensor(naive_info_nce(latents, temperature, against))
    torch.testing.assert_close(info_nce(latents, temperature, against), expected, rtol=1e-5, atol=1e-5)


def test_info_nce_of_a_sample_ignores_the_others() -> None:
    latents = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(info_nce(latents[2:3], 0.1)[0], info_nce(latents, 0.1)[2])


def test_info_nce_depends_on_direction_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, scales = torch.randn(2, 6, 5, generator=generator), torch.rand(2, 6, 1, generator=generator) + 0.5
    torch.testing.assert_close(info_nce(latents * scales, 0.1), info_nce(latents, 0.1))


@pytest.mark.parametrize("negatives", [0, 3])
def test_info_nce_gradients_are_those_of_finite_differences(negatives: int) -> None:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    against = torch.randn(2, negatives, 3, generator=generator, dtype=torch.float64) if negatives else None
    assert torch.autograd.gradcheck(lambda x: info_nce(x, 0.2, against), latents)


def test_info_nce_float32_gradients_are_those_of_finite_differences() -> None:
    """The dtype that features use, with differences taken of the formula in double precision."""
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(1, 4, 3, generator=generator, requires_grad=True)
    (gradient,) = torch.autograd.grad(info_nce(latents, 0.2).sum(), latents)
    step = 1e-5
    for view in range(4):
        for channel in range(3):
            shift = torch.zeros(1, 4, 3, dtype=torch.float64)
            shift[0, view, channel] = step
            up, down = (naive_info_nce(latents.detach().double() + sign * shift, 0.2)[0] for sign in (1, -1))
            assert float(gradient[0, view, channel]) == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-4)
