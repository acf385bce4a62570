"""Projections of rank-one gradients: against matrices written out, and against the inner products they estimate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fungi_seg import FungiSegError
from fungi_seg.features.projection import DenseProjection, FactoredProjection


def factors(*shape: int, d_out: int = 6, d_in: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, d_out, generator=generator), torch.randn(*shape, d_in, generator=generator)


def outer(b: Tensor, a: Tensor) -> Tensor:
    """The gradients themselves, flattened: `[..., d_out · (d_in + 1)]`."""
    return (b.unsqueeze(-1) * F.pad(a, (0, 1), value=1.0).unsqueeze(-2)).flatten(-2)


@pytest.mark.parametrize("dim", [1, 8, 13])
def test_dense_is_a_matrix_product_with_the_gradient(dim: int) -> None:
    b, a = factors(2, 7)
    projection = DenseProjection.random(dim, 6, 5, seed=3)
    expected = outer(b, a) @ projection.matrix.float().flatten(1).T * dim**-0.5
    torch.testing.assert_close(projection(b, a), expected, rtol=1e-4, atol=1e-5)


def test_factored_is_dense_with_outer_product_rows() -> None:
    b, a = factors(2, 7)
    factored = FactoredProjection(13, 6, 5, seed=3)
    rows = torch.einsum("oj,ij->joi", factored.rows_out, factored.rows_in)
    expected = outer(b, a) @ rows.flatten(1).T * 13**-0.5
    torch.testing.assert_close(factored(b, a), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(DenseProjection(rows.to(torch.int8))(b, a), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "factored"])
def test_inner_products_of_projections_estimate_those_of_gradients(kind: str) -> None:
    b, a = factors(8, seed=1)
    dim = 6_000
    projection = DenseProjection.random(dim, 6, 5, seed=0) if kind == "dense" else FactoredProjection(dim, 6, 5, seed=0)
    exact = outer(b, a)
    gram = exact @ exact.T
    projected = projection(b, a)
    norms = exact.norm(dim=-1)
    errors = (projected @ projected.T - gram) / (norms[:, None] * norms[None])
    assert errors.abs().max() < 0.15  # a standard error is at most 3 / sqrt(dim) = 0.039


@pytest.mark.parametrize("kind", ["dense", "factored"])
def test_seed_fixes_the_signs(kind: str) -> None:
    make = DenseProjection.random if kind == "dense" else FactoredProjection
    b, a = factors(4)
    torch.testing.assert_close(make(16, 6, 5, seed=5)(b, a), make(16, 6, 5, seed=5)(b, a), rtol=0, atol=0)
    assert not torch.allclose(make(16, 6, 5, seed=5)(b, a), make(16, 6, 5, seed=6)(b, a))


def test_rows_are_signs_in_equal_shares() -> None:
    factored = FactoredProjection(1000, 6, 5, seed=0)
    dense = DenseProjection.random(1000, 6, 5, seed=0)
    assert factored.rows_out.shape == (6, 1000)
    assert factored.rows_in.shape == (6, 1000)
    assert dense.matrix.shape == (1000, 6, 6)
    assert dense.matrix.dtype == torch.int8
    for signs in (factored.rows_out, factored.rows_in, dense.matrix.float()):
        assert set(signs.unique().tolist()) == {-1.0, 1.0}
        assert signs.mean().abs() < 0.05


def test_bfloat16_factors_give_float32_close_to_float32_ones() -> None:
    b, a = factors(50, d_out=24, d_in=24)
    exact = FactoredProjection(64, 24, 24, seed=0)(b, a)
    rounded = FactoredProjection(64, 24, 24, seed=0, dtype=torch.bfloat16)(b, a)
    assert rounded.dtype == torch.float32
    assert F.cosine_similarity(exact, rounded, dim=-1).min() > 0.999


def test_dense_matrix_must_be_three_dimensional() -> None:
    with pytest.raises(FungiSegError, match=r"matrix has shape \[4, 36\].*\[dim, d_out, d_in \+ 1\]"):
        DenseProjection(torch.ones(4, 36, dtype=torch.int8))
