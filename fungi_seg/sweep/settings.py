"""Which settings are measured."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from itertools import product

from fungi_seg.bank import PUBLISHED_WEIGHT, SAMPLINGS, BankConfig
from fungi_seg.errors import FungiSegError, check_choice
from fungi_seg.features import FeatureConfig
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderConfig


@dataclass(frozen=True)
class Setting:
    """One combination of what is swept.

    Attributes:
        k: neighbours a patch.
        temperature: of the vote.
        size: rows of the bank at most; all where none is given.
        sampling: which patches are kept.
        index: how neighbours are searched.
        kind: of features, plain or fungi.
        gradient_weight: of the gradient in the similarity; none for plain features.
        backbone: its name.
    """

    k: int
    temperature: float
    size: int | None
    sampling: str
    index: str
    kind: str = FeatureConfig.kind
    gradient_weight: float | None = PUBLISHED_WEIGHT
    backbone: str = ""


DIMENSIONS = tuple(field.name for field in fields(Setting))
DEFAULTS = Setting(DecoderConfig.k, DecoderConfig.temperature, BankConfig.size, BankConfig.sampling, IndexConfig.kind)
OPEN = ("kind", "backbone")  # where none is named, the sweep says what they are
LEAST = {"k": 1, "size": 1, "seeds": 0}


@dataclass(frozen=True)
class SweepConfig:
    """Which settings are measured: every combination of these values.

    Args:
        k: neighbours a patch.
        temperature: of the softmax over their cosine similarities.
        size: rows of the bank at most; `null` keeps every labelled patch.
        sampling: which patches are kept: `balanced` or `uniform`.
        index: how neighbours are searched: `auto`, `flat`, `int8`, `lists` or FAISS factory strings.
        seeds: of the choice of patches.
        kind: of features, `plain` and `fungi`; where none is named, what the sweep's features are.
        gradient_weight: a in the similarity `(1 − a)·cos(token) + a·cos(gradient)` of `fungi`, 0 to 1.
        backbone: names; those that the sweep is given where none is named.
    """

    k: tuple[int, ...] = (5, 30, 90)
    temperature: tuple[float, ...] = (0.005, 0.02, 0.1)
    size: tuple[int | None, ...] = (BankConfig.size,)
    sampling: tuple[str, ...] = (BankConfig.sampling,)
    index: tuple[str, ...] = (IndexConfig.kind,)
    seeds: tuple[int, ...] = (0, 1, 2)
    kind: tuple[str, ...] = ()
    gradient_weight: tuple[float, ...] = (PUBLISHED_WEIGHT,)
    backbone: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*DIMENSIONS, "seeds"):
            values = getattr(self, name)
            if (not values and name not in OPEN) or len(set(values)) < len(values):
                raise FungiSegError(f"{name} is {list(values)}; it must hold at least one value, and none twice")
        for name, least in LEAST.items():
            low = [value for value in getattr(self, name) if value is not None and value < least]
            if low:
                raise FungiSegError(f"{name} holds {low[0]}; each value must be at least {least}")
        for value in self.temperature:
            if not 0 < value < math.inf:
                raise FungiSegError(f"temperature holds {value}; each value must be a number above 0")
        for sampling in self.sampling:
            check_choice("sampling", sampling, SAMPLINGS)
        for kind in self.kind:
            check_choice("kind", kind, ("plain", "fungi"))
        for weight in self.gradient_weight:
            if not 0 <= weight <= 1:
                raise FungiSegError(f"gradient_weight holds {weight}; each value must be between 0 and 1")
        if self.kind == ("plain",) and self.gradient_weight != SweepConfig.gradient_weight:
            raise FungiSegError(
                f"gradient_weight is {list(self.gradient_weight)}, but features are plain and have no gradient, so "
                f"that it changes nothing; leave it out, or measure fungi too"
            )
        self.check_rows(math.inf)

    def check_rows(self, available: float) -> None:
        """Raise unless the smallest bank of so many labelled patches has as many rows as the largest `k`."""
        smallest = min([available, *(size for size in self.size if size is not None)])
        if max(self.k) > smallest:
            raise FungiSegError(
                f"k holds {max(self.k)}, but the smallest bank has {smallest} rows; a vote needs as many rows as "
                f"neighbours: lower k, raise size, or give more training images"
            )

    @property
    def reference(self) -> Setting:
        """What the others are compared with: of each dimension the default if it is measured, or the first value."""
        default, found = asdict(DEFAULTS), {}
        for name in DIMENSIONS:
            values = getattr(self, name) or (default[name],)
            found[name] = default[name] if default[name] in values else values[0]
        return _sensible(Setting(**found))

    def settings(self) -> list[Setting]:
        """Every combination; plain features have no gradient to weight, and count once."""
        values = [getattr(self, name) or (getattr(DEFAULTS, name),) for name in DIMENSIONS]
        return list(dict.fromkeys(_sensible(Setting(*one)) for one in product(*values)))


def _sensible(setting: Setting) -> Setting:
    return replace(setting, gradient_weight=None) if setting.kind == "plain" else setting
