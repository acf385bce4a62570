"""Self-supervised losses: embeddings or latents in, one loss per sample out.

An objective of one's own is a class with a `name`, the `views` it looks at, and `loss(embeddings)`; it may have
`fit(support)` besides, which is called once with the embeddings of a support set's views.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from fungi_seg.errors import FungiSegError
from fungi_seg.features.views import GLOBALS, Views

SELF_SIMILARITY = -1e4


class Objective(Protocol):
    """What `ImageFeatures` takes gradients of.

    Attributes:
        name: of its part of a feature.
        views: what it looks at.
    """

    name: str
    views: Views

    def loss(self, embeddings: Tensor) -> Tensor:
        """Embeddings `[B, V, D]` float32 of the views (not normalised, with a graph) to `[B]` losses."""


@runtime_checkable
class NeedsSupport(Protocol):
    """An objective that is held against a support set."""

    def fit(self, support: Tensor) -> None:
        """Keep what the loss needs of `[S, V, D]`, the embeddings of the support images' views."""


class Head:
    """A random linear layer, as the default initialisation of one has it.

    Args:
        width, dim: of what enters and leaves.
        seed: fixes weight `[dim, width]` and bias `[dim]`, on any device.
    """

    def __init__(self, width: int, dim: int, seed: int):
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        bound = width**-0.5
        self.weight = (torch.rand((dim, width), generator=generator) * 2 - 1) * bound
        self.bias = (torch.rand((dim,), generator=generator) * 2 - 1) * bound

    def __call__(self, embeddings: Tensor) -> Tensor:
        """`[..., width]` to `[..., dim]`."""
        weight, bias = self.weight.to(embeddings.device), self.bias.to(embeddings.device)
        self.weight, self.bias = weight, bias  # for the next call; another thread may meanwhile need them elsewhere
        return F.linear(embeddings, weight, bias)


def describe(objective: Objective) -> dict[str, Any]:
    """What an objective is, for a record: class, name, views, and those of its attributes that are settings."""
    settings: dict[str, Any] = {
        "class": type(objective).__qualname__,
        "name": objective.name,
        "views": str(objective.views),
    }
    for key, value in sorted(vars(objective).items()):
        if isinstance(value, Head):
            settings[key] = {"width": value.weight.shape[1], "dim": value.weight.shape[0], "seed": value.seed}
        elif isinstance(value, bool | int | float | str):
            settings[key] = value
    return settings


class KL:
    """The divergence of a uniform distribution from a softmax over random classes (FUNGI, section 3).

    Args:
        views: one or more; the loss is their mean.
        width: `D` of an embedding.
        seed: fixes the head.
        temperature: of the softmax.
        dim: classes.
    """

    name = "kl"

    def __init__(self, views: Views, width: int, seed: int, temperature: float = 15.0, dim: int = 768):
        self.views, self.temperature, self.head = views, temperature, Head(width, dim, seed)

    def loss(self, embeddings: Tensor) -> Tensor:
        """Mean over views and classes of KL(uniform ‖ softmax(z / T)), `z = head(normalise(embedding))`."""
        logits = self.head(F.normalize(embeddings, dim=-1)) / self.temperature
        classes = logits.shape[-1]
        divergence = -math.log(classes) - F.log_softmax(logits, dim=-1).mean(-1)
        return divergence.mean(-1) / classes


class Dino:
    """Every view predicts what a teacher sees in the global views, itself included (FUNGI, section 3).

    Args:
        views: the first two of them are the global ones.
        width: `D` of an embedding.
        seed: fixes both heads.
        student, teacher: temperatures.
        dim: classes.
    """

    name = "dino"

    def __init__(
        self, views: Views, width: int, seed: int, student: float = 0.1, teacher: float = 0.07, dim: int = 2048
    ):
        self.views, self.student, self.teacher = views, student, teacher
        self.student_head, self.teacher_head = Head(width, dim, seed), Head(width, dim, seed + 1)

    def loss(self, embeddings: Tensor) -> Tensor:
        """Cross-entropies of all pairs of a global view (teacher, without a graph) and a view (student), summed."""
        embeddings = F.normalize(embeddings, dim=-1)
        wanted = F.softmax(self.teacher_head(embeddings[:, :GLOBALS].detach()) / self.teacher, dim=-1)
        found = F.log_softmax(self.student_head(embeddings) / self.student, dim=-1)
        return -(wanted.sum(1, keepdim=True) * found).sum((1, 2))


class SimCLR:
    """The views of an image against each other and against those of the support set (FUNGI, section 3).

    Args:
        views: at least two.
        width: `D` of an embedding.
        seed: fixes the head.
        temperature: τ.
        dim: of the latents.
        divide_all: see `info_nce`; the paper's experiments divide all similarities, its library the positives alone.
    """

    name = "simclr"

    def __init__(
        self,
        views: Views,
        width: int,
        seed: int,
        temperature: float = 0.07,
        dim: int = 96,
        divide_all: bool = True,
    ):
        self.views, self.temperature, self.divide_all = views, temperature, divide_all
        self.head = Head(width, dim, seed)
        self.negatives: Tensor | None = None

    def fit(self, support: Tensor) -> None:
        """Encode the negatives: all views of the support images."""
        self.negatives = self.head(support.flatten(0, 1))

    def loss(self, embeddings: Tensor) -> Tensor:
        """InfoNCE of the encoded views."""
        negatives = _fitted(self.negatives, self.name)
        return info_nce(self.head(embeddings), self.temperature, negatives[None], self.divide_all)


class DeepCluster:
    """Views are to fall into the cluster of the image's first global view (DeepCluster-v2, Caron et al. 2020).

    Clusters are those that k-means finds among the encoded first views of the support set.

    Args:
        views: the first of them decides the pseudo-label.
        width: `D` of an embedding.
        seed: fixes the head and k-means.
        clusters: how many; no more than support images.
        temperature: of the softmax over clusters.
        dim: of the latents.
    """

    name = "deepcluster"

    def __init__(
        self, views: Views, width: int, seed: int, clusters: int = 64, temperature: float = 0.1, dim: int = 128
    ):
        self.views, self.seed, self.clusters, self.temperature = views, seed, clusters, temperature
        self.head = Head(width, dim, seed)
        self.centroids: Tensor | None = None

    def fit(self, support: Tensor) -> None:
        """Find the clusters.

        Raises:
            FungiSegError: fewer support images than clusters.
        """
        from sklearn.cluster import KMeans  # a second of imports

        if len(support) < self.clusters:
            raise FungiSegError(
                f"deepcluster looks for {self.clusters} clusters among {len(support)} support images; it needs at "
                f"least one image a cluster: lower features.clusters, raise features.support, or give more images"
            )
        latents = F.normalize(self.head(support[:, 0]), dim=-1)
        found = KMeans(self.clusters, n_init=4, random_state=self.seed).fit(latents.cpu().numpy())
        self.centroids = F.normalize(torch.from_numpy(found.cluster_centers_), dim=-1).to(latents)

    def loss(self, embeddings: Tensor) -> Tensor:
        """Mean over the views of the cross-entropy with the pseudo-label."""
        centroids = _fitted(self.centroids, self.name)
        logits = F.normalize(self.head(embeddings), dim=-1) @ centroids.T / self.temperature
        pseudo_label = logits[:, :1].detach().argmax(-1)
        return (
            -F.log_softmax(logits, dim=-1).gather(-1, pseudo_label[..., None].expand_as(logits[..., :1])).mean((1, 2))
        )


def info_nce(latents: Tensor, temperature: float, negatives: Tensor | None = None, divide_all: bool = False) -> Tensor:
    """InfoNCE over the views of each sample, every other view being a positive.

    `mean over views i of [ logsumexp_j σ s_ij − Σ_{j≠i} s_ij / (τ (V − 1)) ]`, where `s` are cosine similarities to the
    sample's views (its own lowered by 1e4, out of reach) and to its negatives (FUNGI, Simoncini et al. 2024, section
    3). In the code published with the paper σ is 1 for patches, τ dividing the positives alone, and 1/τ for images.

    Args:
        latents: `[B, V, d]` float, V ≥ 2.
        temperature: τ > 0.
        negatives: `[B, R, d]` float, `[1, R, d]` for all samples, or none.
        divide_all: σ = 1/τ in place of 1.

    Returns:
        `[B]` losses.

    Raises:
        FungiSegError: fewer than two views.
    """
    views = latents.shape[1]
    check_views(views)
    latents = F.normalize(latents, dim=-1)
    others = latents.sum(1, keepdim=True) - latents
    positives = (latents * others).sum(-1) / (temperature * (views - 1))
    scale = 1 / temperature if divide_all else 1.0
    own = (
        torch.eye(views, device=latents.device, dtype=latents.dtype).mul_(SELF_SIMILARITY).expand(len(latents), -1, -1)
    )
    candidates = torch.baddbmm(own, latents, latents.transpose(1, 2), alpha=scale)
    if negatives is not None:
        against = scale * (latents @ F.normalize(negatives, dim=-1).transpose(1, 2))
        candidates = torch.cat([candidates, against], dim=-1)
    return (candidates.logsumexp(-1) - positives).mean(-1)


def check_views(views: int) -> None:
    """Raise unless there is something to contrast a view with."""
    if views < 2:
        raise FungiSegError(f"latents has {views} view a sample; a contrast needs at least two: use a larger image")


def _fitted(kept: Tensor | None, name: str) -> Tensor:
    if kept is None:
        raise FungiSegError(
            f"{name} is held against a support set, and has none yet; call ImageFeatures.fit(images) first, with "
            f"training images"
        )
    return kept
