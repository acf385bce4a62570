"""Which patches a bank holds, and how."""

from __future__ import annotations

from dataclasses import dataclass

from fungi_seg.errors import FungiSegError, check_choice
from fungi_seg.features import FeatureConfig
from fungi_seg.images import InputConfig

MANIFEST = "bank.json"  # the file that names all others of a bank, and that every change replaces
KEY_DTYPES = ("float16", "int8", "int4")
SAMPLINGS = ("balanced", "uniform")
RIDGE_KINDS = ("none", "token", "feature", "fourier")
PUBLISHED_WEIGHT = 0.5  # of the gradient, in FUNGI's paper
MOST_EPOCHS = 32_767  # rows store their epoch in 16 bits


@dataclass(frozen=True)
class BankConfig:
    """Which patches a bank holds.

    Args:
        size: rows at most; `null` keeps every labelled patch.
        epochs: passes over the images; more than one needs `augment`.
        augment: take randomly jittered and cropped copies of the images, new ones in each epoch, in place of the
            images themselves.
        void: void pixels `ignore` (left out of the labels; patches without any label are left out of the bank), or
            `background` (counted as class 0, as published evaluation code does).
        sampling: which patches of an image come first: `balanced` (rare classes, as Hummingbird does) or `uniform`.
        key_dtype: how features are stored: `float16`, `int8` (half the disk) or `int4` (a quarter).
    """

    size: int | None = 102_400
    epochs: int = 1
    augment: bool = False
    void: str = "ignore"
    sampling: str = "balanced"
    key_dtype: str = "float16"

    def __post_init__(self) -> None:
        check_choice("bank.void", self.void, ("ignore", "background"))
        check_choice("bank.sampling", self.sampling, SAMPLINGS)
        check_choice("bank.key_dtype", self.key_dtype, KEY_DTYPES)
        if self.size is not None and self.size < 1:
            raise FungiSegError(f"bank.size is {self.size}; it must be at least 1, or null for every patch")
        if not 1 <= self.epochs <= MOST_EPOCHS:
            raise FungiSegError(f"bank.epochs is {self.epochs}; it must be between 1 and {MOST_EPOCHS}")
        if self.epochs > 1 and not self.augment:
            raise FungiSegError(
                f"bank.epochs is {self.epochs} without augmentation, which would store the same patches again; "
                f"set bank.augment to true, or bank.epochs to 1"
            )


@dataclass(frozen=True)
class BankRecipe:
    """What decides the rows of a bank: the same recipe, images and backbone give the same bank.

    Args:
        features: what a patch feature is made of.
        input: how an image becomes the backbone's input.
        bank: which patches are kept.
        seed: of sampling and augmentation.
    """

    features: FeatureConfig = FeatureConfig()
    input: InputConfig = InputConfig()
    bank: BankConfig = BankConfig()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise FungiSegError(f"seed is {self.seed}; it must be 0 or more")
