"""What a result was made by, and when."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import version


def software() -> dict[str, str]:
    """Versions that a result may depend on."""
    return {"python": platform.python_version()} | {n: version(n) for n in ("fungi-seg", "torch", "timm")}


def now() -> str:
    """The time, ISO 8601, UTC; that of `SOURCE_DATE_EPOCH` where that is set, so that builds can be reproduced."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(given), timezone.utc) if given else datetime.now(timezone.utc)
    return moment.isoformat(timespec="seconds")
