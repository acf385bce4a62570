"""What a result was made by, and when."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

# Raise it by hand with every change after which the same image, backbone and settings give other features, beyond
# rounding: a loss, a head, a projection, views, the way images are scaled, normalised or cut. Caches and drafts of
# another number are thrown away; banks of another number can't be compared with new images and must be built again.
FEATURE_CODE = 1
CODE = "feature code"  # what records call it


def software() -> dict[str, str]:
    """Versions that a result may depend on."""
    return {"python": platform.python_version(), "fungi-seg": version("fungi-seg")} | feature_code()


def feature_code() -> dict[str, str]:
    """All versions that a feature depends on: of the code here, and of the libraries that run the backbone."""
    return {CODE: str(FEATURE_CODE)} | {name: version(name) for name in ("torch", "timm")}


def code_of(record: dict[str, str]) -> str:
    """The version of the feature code in a record of versions; those of the first one didn't name it."""
    return record.get(CODE, "1")


def now() -> str:
    """The time, ISO 8601, UTC; that of `SOURCE_DATE_EPOCH` where that is set, so that builds can be reproduced."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(given), timezone.utc) if given else datetime.now(timezone.utc)
    return moment.isoformat(timespec="seconds")


def settings_section(settings: dict[str, Any]) -> list[str]:
    """The end of a Markdown report: everything that its numbers depend on, line by line."""
    return ["Settings:", "", "```json", json.dumps(settings, indent=1, ensure_ascii=False), "```", ""]
