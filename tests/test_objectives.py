"""Self-supervised losses against definitions written out as loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fungi_seg import FungiSegError
from fungi_seg.features.objectives import KL, DeepCluster, Dino, Head, NeedsSupport, SimCLR, info_nce
from fungi_seg.features.views import CentreCrop


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


def embeddings_of(samples: int, views: int, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(samples, views, width, generator=torch.Generator().manual_seed(seed))


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(v - max(values)) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def logits(head: Head, embedding: Tensor, normalised: bool = True) -> list[float]:
    x = embedding.double()
    x = x / x.norm() if normalised else x
    return [float(row @ x + b) for row, b in zip(head.weight.double(), head.bias.double(), strict=True)]


VIEW = CentreCrop(8)


def test_kl_is_its_definition() -> None:
    objective, embeddings = KL(VIEW, 6, 3, temperature=2.0, dim=5), embeddings_of(3, 2)
    expected = []
    for sample in embeddings:
        of_views = []
        for view in sample:
            found = softmax([z / 2.0 for z in logits(objective.head, view)])
            of_views.append(sum(0.2 * (math.log(0.2) - math.log(p)) for p in found) / 5)
        expected.append(sum(of_views) / 2)
    torch.testing.assert_close(objective.loss(embeddings), torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_dino_is_its_definition() -> None:
    objective, embeddings = Dino(VIEW, 6, 3, dim=5), embeddings_of(2, 4)
    expected = []
    for sample in embeddings:
        total = 0.0
        for teacher_view in sample[:2]:
            wanted = softmax([z / 0.07 for z in logits(objective.teacher_head, teacher_view)])
            for student_view in sample:
                found = softmax([z / 0.1 for z in logits(objective.student_head, student_view)])
                total -= sum(w * math.log(f) for w, f in zip(wanted, found, strict=True))
        expected.append(total)
    torch.testing.assert_close(objective.loss(embeddings), torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_dino_teacher_has_no_graph() -> None:
    objective, embeddings = Dino(VIEW, 6, 0, dim=5), embeddings_of(1, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(objective.loss(embeddings).sum(), embeddings)
    fixed = F.softmax(objective.teacher_head(F.normalize(embeddings[:, :2], dim=-1)) / 0.07, dim=-1).detach()
    student = embeddings.detach().clone().requires_grad_()
    found = F.log_softmax(objective.student_head(F.normalize(student, dim=-1)) / 0.1, dim=-1)
    loss = -sum((fixed[:, t] * found[:, s]).sum() for t in range(2) for s in range(3))
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, student)[0])


@pytest.mark.parametrize("divide_all", [True, False])
def test_simclr_contrasts_encoded_views_with_those_of_the_support(divide_all: bool) -> None:
    objective = SimCLR(VIEW, 6, 3, temperature=0.5, dim=4, divide_all=divide_all)
    support, embeddings = embeddings_of(5, 3, seed=1), embeddings_of(2, 3)
    objective.fit(support)
    scale = 2.0 if divide_all else 1.0
    against = torch.tensor([logits(objective.head, view, False) for image in support for view in image])
    expected = []
    for sample in embeddings:
        z = torch.tensor([logits(objective.head, view, False) for view in sample])
        total = 0.0
        for i in range(3):
            own = [float(F.cosine_similarity(z[i], z[j], dim=0)) for j in range(3) if j != i]
            other = F.cosine_similarity(z[i][None], against).tolist()
            total += math.log(sum(math.exp(scale * s) for s in own + other)) - sum(own) / (0.5 * 2)
        expected.append(total / 3)
    torch.testing.assert_close(objective.loss(embeddings), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_info_nce_that_divides_all_similarities() -> None:
    latents = embeddings_of(2, 4)
    scaled = naive_info_nce(latents, 1.0)  # with τ = 1 nothing is divided
    torch.testing.assert_close(info_nce(latents, 1.0, None, True), torch.tensor(scaled), rtol=1e-5, atol=1e-5)
    z = F.normalize(latents, dim=-1)
    similarities = (z @ z.transpose(1, 2)) / 0.25
    off = ~torch.eye(4, dtype=torch.bool)
    expected = (similarities.masked_fill(~off, -torch.inf).logsumexp(-1) - (similarities * off).sum(-1) / 3).mean(-1)
    torch.testing.assert_close(info_nce(latents, 0.25, None, True), expected)


def test_deepcluster_is_its_definition() -> None:
    objective, embeddings = DeepCluster(VIEW, 6, 3, clusters=3, temperature=0.2, dim=4), embeddings_of(2, 3)
    objective.fit(embeddings_of(20, 3, seed=1))
    assert objective.centroids is not None
    expected = []
    for sample in embeddings:
        scores = []
        for view in sample:
            z = torch.tensor(logits(objective.head, view, False))
            scores.append([float(F.cosine_similarity(z, c, dim=0)) for c in objective.centroids])
        label = scores[0].index(max(scores[0]))
        expected.append(-sum(math.log(softmax([s / 0.2 for s in row])[label]) for row in scores) / 3)
    torch.testing.assert_close(objective.loss(embeddings), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_deepcluster_finds_clusters_of_the_supports_first_views() -> None:
    objective = DeepCluster(VIEW, 6, 3, clusters=3, dim=6)
    centres = torch.eye(3, 6) * 10
    first = centres.repeat_interleave(10, 0) + 0.01 * embeddings_of(30, 1)[:, 0]
    objective.fit(torch.stack([first, torch.randn(30, 6, generator=torch.Generator().manual_seed(1))], dim=1))
    assert objective.centroids is not None
    near = F.normalize(objective.head(centres), dim=-1) @ objective.centroids.T
    assert near.max(1).values.min() > 0.999
    assert near.argmax(1).unique().numel() == 3


def test_losses_of_a_sample_ignore_the_others() -> None:
    for objective in (KL(VIEW, 6, 0), Dino(VIEW, 6, 0), SimCLR(VIEW, 6, 0), DeepCluster(VIEW, 6, 0, clusters=4)):
        if isinstance(objective, NeedsSupport):
            objective.fit(embeddings_of(9, 3, seed=2))
        embeddings = embeddings_of(4, 3)
        torch.testing.assert_close(objective.loss(embeddings[2:3])[0], objective.loss(embeddings)[2])


def test_head_is_drawn_like_a_linear_layer_and_fixed_by_its_seed() -> None:
    head, layer = Head(400, 300, 5), torch.nn.Linear(400, 300)
    assert head.weight.shape == layer.weight.shape
    assert float(head.weight.abs().max()) <= 400**-0.5
    assert float(head.weight.std()) == pytest.approx(float(layer.weight.detach().std()), rel=0.02)
    assert float(head.bias.abs().max()) <= 400**-0.5
    assert torch.equal(Head(400, 300, 5).weight, head.weight)
    assert not torch.equal(Head(400, 300, 6).weight, head.weight)


@pytest.mark.parametrize("kind", [SimCLR, DeepCluster])
def test_objectives_without_their_support_say_so(kind: type) -> None:
    objective = kind(VIEW, 6, 0)
    with pytest.raises(FungiSegError, match=r"is held against a support set, and has none yet; call ImageFeatures.fit"):
        objective.loss(embeddings_of(1, 2))


def test_fewer_support_images_than_clusters() -> None:
    with pytest.raises(FungiSegError, match="looks for 64 clusters among 9 support images; it needs at least one"):
        DeepCluster(VIEW, 6, 0).fit(embeddings_of(9, 2))
