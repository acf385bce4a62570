"""Recipe and protocol files (YAML) to command-line options, and options back to a recipe."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from fungi_seg.config import flatten


def as_options(values: Mapping[str, Any], options: Collection[str], where: str) -> list[str]:
    """Nested settings as `--dotted.key=value`, each of which must be among `options`.

    Raises:
        FungiSegError: a key that no option has, with the nearest one.
    """
    return [f"--{key}={_text(value)}" for key, value in flatten(values, options, where).items()]


def as_recipe(section: str, values: Mapping[str, Any]) -> str:
    """A recipe of one section, as YAML."""
    import yaml

    text: str = yaml.safe_dump({section: values}, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
