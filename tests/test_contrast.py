"""The gradient in closed form against that of the loss by automatic differentiation, and what it holds at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fungi_seg import Backbone, FeatureConfig, FungiSegError, PatchFeatures
from fungi_seg.features import contrast
from fungi_seg.features.contrast import CHUNK_VALUES, contrast_gradient
from fungi_seg.features.objectives import info_nce


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that is computed."""

    values = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self.values = max(self.values, tensor.numel())
        return made


def random_latents(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 0.3


def by_graph(latents: Tensor, temperature: float, negatives: Tensor | None) -> Tensor:
    leaf = latents.clone().requires_grad_()
    return torch.autograd.grad(info_nce(leaf, temperature, negatives).sum(), leaf)[0]


@pytest.mark.parametrize("chunk", [1, 100, CHUNK_VALUES])
@pytest.mark.parametrize("negatives", [None, 1, 40])
@pytest.mark.parametrize(("images", "views"), [(1, 2), (3, 17)])
def test_it_is_the_gradient_of_the_loss(
    images: int, views: int, negatives: int | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrast, "CHUNK_VALUES", chunk)
    latents = random_latents(images, views, 5)
    against = None if negatives is None else random_latents(images, negatives, 5, seed=1)
    found = contrast_gradient(latents, 0.07, against)
    torch.testing.assert_close(found, by_graph(latents, 0.07, against), rtol=1e-10, atol=1e-12)


def test_float32_is_as_good_as_that_of_the_graph() -> None:
    latents = random_latents(1, 300, 96, dtype=torch.float32)
    exact = by_graph(latents.double(), 0.07, None)
    off = [
        (found - exact).norm() / exact.norm()
        for found in (contrast_gradient(latents, 0.07), by_graph(latents, 0.07, None))
    ]
    assert off[0] < 1e-6
    assert off[0] < 2 * off[1]


def test_equal_and_opposite_views() -> None:
    latents = torch.tensor([[[1.0, 0], [1, 0], [-1, 0], [0, 2]]], dtype=torch.float64)
    torch.testing.assert_close(contrast_gradient(latents, 0.5), by_graph(latents, 0.5, None))


def test_what_goes_in_stays_as_it_is() -> None:
    latents, negatives = random_latents(2, 9, 4), random_latents(2, 3, 4, seed=1)
    before = latents.clone(), negatives.clone()
    contrast_gradient(latents, 0.07, negatives)
    assert torch.equal(latents, before[0])
    assert torch.equal(negatives, before[1])


def test_one_view_has_no_contrast() -> None:
    with pytest.raises(FungiSegError, match="latents has 1 view a sample; a contrast needs at least two"):
        contrast_gradient(random_latents(1, 1, 4), 0.07)


@pytest.mark.parametrize("negatives", [0, 2])
def test_no_matrix_of_all_patches(tiny_backbone: Backbone, negatives: int) -> None:
    """4096 patches: a matrix of all of them would hold 16.8 million numbers."""
    support = torch.nn.functional.normalize(random_latents(1000, tiny_backbone.dim, dtype=torch.float32), dim=-1)
    features = PatchFeatures(tiny_backbone, FeatureConfig(negatives=negatives), support if negatives else None)
    with Largest() as largest:
        features(torch.zeros(1, 3, 512, 512, dtype=torch.uint8))
    assert largest.values == 3 * 512**2  # the image itself
