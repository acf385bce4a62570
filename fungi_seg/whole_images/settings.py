"""How features of whole images are evaluated."""

from __future__ import annotations

from dataclasses import dataclass

from fungi_seg.errors import FungiSegError, check_choice, check_unused

LEARNING = ("knn", "knn_weighted", "linear")
METHODS = (*LEARNING, "cluster", "retrieval")


@dataclass(frozen=True)
class ClassifyConfig:
    """How features are evaluated.

    Args:
        methods: any of `knn` (majority of k neighbours), `knn_weighted` (weighted by similarity), `linear` (logistic
            regression), `cluster` (k-means on the validation images) and `retrieval` (validation images are queries).
        combinations: parts joined by a plus, such as `embedding+kl`; empty: every combination there is.
        k: neighbours.
        shots: learn from so many images a class too, such as 5 (`knn`, `knn_weighted`, `linear`).
        shot_seeds: how often these are drawn.
        pca: reduce features to so many components, fitted to all training images, kept beside the features.
        seed: of draws, the linear probe's held-back images, clusters and PCA.
    """

    methods: tuple[str, ...] = METHODS
    combinations: tuple[str, ...] = ()
    k: int = 20
    shots: tuple[int, ...] = ()
    shot_seeds: int = 3
    pca: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for method in self.methods:
            check_choice("methods", method, METHODS)
        if not self.methods:
            raise FungiSegError(f"methods is empty; name at least one of {', '.join(METHODS)}")
        for name, lowest in {"k": 1, "shot_seeds": 1, "seed": 0}.items():
            if getattr(self, name) < lowest:
                raise FungiSegError(f"{name} is {getattr(self, name)}; it must be at least {lowest}")
        if self.pca is not None and self.pca < 1:
            raise FungiSegError(f"pca is {self.pca}; it must be at least 1, or left out")
        lowest = 2 if "linear" in self.methods else 1
        if min(self.shots, default=lowest) < lowest:
            why = "; the linear probe holds one back: leave linear out of --methods to learn from 1" * (lowest - 1)
            raise FungiSegError(f"shots is {list(self.shots)}; each must be at least {lowest}{why}")
        if self.shots and not set(self.methods) & set(LEARNING):
            raise FungiSegError(
                f"shots is {list(self.shots)}, but methods has none that learns; add one of {', '.join(LEARNING)}, "
                f"or leave --shots out"
            )
        if not self.shots:
            check_unused(self, "", ("shot_seeds",), "shots is empty", "leave it out, or name --shots")
        if not any(method.startswith("knn") for method in self.methods):
            check_unused(
                self, "", ("k",), "methods has neither knn nor knn_weighted", "leave it out, or add one of them"
            )
