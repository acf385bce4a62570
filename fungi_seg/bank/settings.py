"""Which patches a bank holds, and how."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fungi_seg.errors import FungiSegError, check_choice
from fungi_seg.features import FeatureConfig
from fungi_seg.images import InputConfig

MANIFEST = "bank.json"  # the file that names all others of a bank, and that every change replaces
KEY_DTYPES = ("float16", "int8", "int4")
SAMPLINGS = ("balanced", "uniform")
RIDGE_KINDS = ("none", "token", "feature", "fourier")
PUBLISHED_WEIGHT = 0.5  # of the gradient, in FUNGI's paper
SPARE = 4.0  # candidates that a part of a bank keeps, in times of its share of the rows
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


@dataclass(frozen=True)
class Share:
    """One part of so many: `number` of 1..`count`."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise FungiSegError(f"shard is {self}; the first number must be between 1 and the second, such as 3/64")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def of(cls, text: str) -> Share:
        """`3/64` as a share.

        Raises:
            FungiSegError: not two such numbers.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found:
            raise FungiSegError(f"shard is {text!r}; it must be which part of how many, such as 3/64")
        return cls(int(found[1]), int(found[2]))

    @property
    def folder(self) -> str:
        """Name of the folder that the part lies in."""
        return f"{self.number:04d}-of-{self.count:04d}"

    def images(self, total: int, batch: int) -> range:
        """Which of `total` images are in it: whole runs of `batch` that go through the backbone together; maybe none.

        Features may depend on what goes through a backbone at the same time, in the last bits.
        """
        runs = -(-total // batch)
        first, last = ((runs * part // self.count) * batch for part in (self.number - 1, self.number))
        return range(min(first, total), min(last, total))
