"""Gradient factors to a short vector: a random ±1 projection of a gradient that is never built.

Row `j` of the projection, applied to the gradient `outer(b, [a; 1])`:

- dense: any ±1 matrix `P_j`, giving `Σ P_j ∘ outer(b, [a; 1])`: the paper's, for parity;
- factored: `P_j = outer(r_j, s_j)`, giving `(r_j · b)(s_j · [a; 1])`: the same estimate of inner products from
  `d_out + d_in` products in place of `d_out · d_in`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fungi_seg.errors import FungiSegError

DENSE_ROWS = 8


class FactoredProjection:
    """Random ±1 rows that are outer products.

    Args:
        dim: length of the result.
        d_out, d_in: of the linear layer.
        seed: fixes the signs, on any device.
        device, dtype: where and in which arithmetic to multiply.
    """

    def __init__(
        self,
        dim: int,
        d_out: int,
        d_in: int,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        generator = torch.Generator().manual_seed(seed)
        self.rows_out = _signs((d_out, dim), generator).to(device, dtype)
        self.rows_in = _signs((d_in + 1, dim), generator).to(device, dtype)
        self.scale = dim**-0.5

    def __call__(self, output_gradients: Tensor, inputs: Tensor) -> Tensor:
        """`b` `[..., d_out]` and `a` `[..., d_in]` to `[..., dim]`, float32."""
        left = output_gradients.to(self.rows_out.dtype) @ self.rows_out
        right = inputs.to(self.rows_in.dtype) @ self.rows_in[:-1] + self.rows_in[-1]
        return left.float() * right.float() * self.scale


class DenseProjection:
    """Random ±1 rows, each as large as the gradient: `dim · d_out · (d_in + 1)` bytes.

    Args:
        matrix: `[dim, d_out, d_in + 1]` int8, the bias gradient being the last column.
    """

    def __init__(self, matrix: Tensor, device: torch.device | str = "cpu"):
        if matrix.ndim != 3:
            raise FungiSegError(f"matrix has shape {list(matrix.shape)}; it must be [dim, d_out, d_in + 1]")
        self.matrix = matrix.to(device)
        self.scale = matrix.shape[0] ** -0.5

    @classmethod
    def random(cls, dim: int, d_out: int, d_in: int, seed: int, device: torch.device | str = "cpu") -> DenseProjection:
        """Signs fixed by `seed`, on any device."""
        return cls(_signs((dim, d_out, d_in + 1), torch.Generator().manual_seed(seed)), device)

    def __call__(self, output_gradients: Tensor, inputs: Tensor) -> Tensor:
        """`b` `[..., d_out]` and `a` `[..., d_in]` to `[..., dim]`."""
        b = output_gradients.float().flatten(0, -2)
        a = F.pad(inputs.float(), (0, 1), value=1.0).flatten(0, -2)
        columns = []
        for rows in self.matrix.split(DENSE_ROWS):
            left = (b @ rows.float().transpose(0, 1).flatten(1)).unflatten(-1, (len(rows), -1))
            columns.append((left * a.unsqueeze(1)).sum(-1))
        return torch.cat(columns, dim=-1).unflatten(0, output_gradients.shape[:-1]) * self.scale


Projection = FactoredProjection | DenseProjection


def make_projection(
    kind: str,
    dim: int,
    layer: nn.Linear,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Projection:
    """A random projection of the gradient of `layer` to `dim` numbers; `dtype` is that of a factored one."""
    shape = dim, layer.out_features, layer.in_features
    if kind == "factored":
        return FactoredProjection(*shape, seed, device, dtype)
    return DenseProjection.random(*shape, seed, device)


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.int8) * 2 - 1
