"""Recipe and protocol files (YAML) to command-line options."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from fungi_seg.config import flatten

RECIPE_SECTIONS = (
    "build",
    "plan",
    "segment",
    "explain",
    "evaluate",
    "inspect",
    "extract",
    "classify",
    "demo",
    "benchmark",
    "compare",
    "sweep",
    "pretrain_embedded",
    *("append", "replace", "remove", "relabel", "merge", "compact", "index"),  # fungi-seg bank …
    *("audit", "verify", "history", "export", "import"),
)


def as_options(values: Mapping[str, Any], options: Collection[str], where: str) -> list[str]:
    """Nested settings as `--dotted.key=value`, each of which must be among `options`.

    Raises:
        FungiSegError: a key that no option has, with the nearest one.
    """
    return [f"--{key}={_text(value)}" for key, value in flatten(values, options, where).items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
