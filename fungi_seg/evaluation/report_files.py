"""Reports of evaluations, read again from their JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fungi_seg.config import from_dict
from fungi_seg.errors import DataError, FungiSegError
from fungi_seg.evaluation.report import Report

NEEDED = ("miou", "classes", "confusion", "settings")


def read_reports(file: str | Path) -> tuple[Report, ...]:
    """The report in a JSON file that `evaluate` wrote; of several seeds, one for each.

    Raises:
        DataError: it can't be read, or is something else.
    """
    file = Path(file).expanduser()
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: can't be read ({error})") from error
    several = values.get("reports") if isinstance(values, dict) else None
    return tuple(_report(one, file) for one in (several if isinstance(several, list) and several else [values]))


def is_report(file: Path) -> bool:
    """Whether a JSON file may be a report: those of COCO results begin a list."""
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.read(256).lstrip().startswith("{")
    except (OSError, ValueError):
        return False


def _report(values: Any, file: Path) -> Report:
    if not isinstance(values, dict) or not all(name in values for name in NEEDED):
        raise DataError(f"{file}: not the report of an evaluation; make one with fungi-seg evaluate … --json FILE")
    try:
        report = from_dict(Report, values, str(file))
        names, notes = [c["name"] for c in report.classes], list(report.notes)
    except (FungiSegError, KeyError, TypeError) as error:
        raise DataError(f"{file}: the report is damaged ({error}); evaluate again") from error
    if len(report.confusion) != len(names):
        raise DataError(f"{file}: the report is damaged ({len(names)} classes, a matrix of {len(report.confusion)})")
    return Report(**{**vars(report), "classes": list(report.classes), "notes": notes})
