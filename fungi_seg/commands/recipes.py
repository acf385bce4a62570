"""Recipe and protocol files (YAML) to command-line options, and options back to a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def as_options(values: Mapping[str, Any]) -> list[str]:
    """Settings by dotted name as `--dotted.key=value`."""
    return [f"--{key}={_text(value)}" for key, value in values.items()]


def as_recipe(section: str, values: Mapping[str, Any]) -> str:
    """A recipe of one section, as YAML."""
    import yaml

    text: str = yaml.safe_dump({section: values}, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
