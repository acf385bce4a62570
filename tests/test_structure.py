"""The house: arrows between rooms, circles, doors, and what a function may ask for."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fungi_seg"
ROOMS = sorted(folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file())
MOST_PARAMETERS = 8
PUBLIC = [
    "Backbone",
    "BackboneConfig",
    "BankConfig",
    "BankError",
    "ClassifyConfig",
    "CocoConfig",
    "CocoResults",
    "DataConfig",
    "DataError",
    "Dataset",
    "DecoderConfig",
    "Explanation",
    "FeatureConfig",
    "FeatureStore",
    "FungiSegError",
    "ImageData",
    "ImageDataConfig",
    "ImageFeatureConfig",
    "ImageFeatures",
    "ImageReport",
    "ImageSet",
    "IndexConfig",
    "InputConfig",
    "LabelledImage",
    "LoadConfig",
    "MemoryBank",
    "MetricConfig",
    "Neighbour",
    "NeighbourIndex",
    "OverlayConfig",
    "PatchFeatures",
    "Predictions",
    "Report",
    "Sample",
    "Segmentation",
    "Segmenter",
    "SourceImages",
    "SourceShare",
    "build_bank",
    "evaluate",
    "evaluate_images",
    "evaluate_predictions",
    "extract",
    "load_backbone",
    "open_dataset",
    "open_images",
    "open_predictions",
]


def contracts(folder: Path) -> subprocess.CompletedProcess[str]:
    linter = Path(sys.executable).parent / "lint-imports"
    return subprocess.run([linter, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


def modules() -> Iterator[Path]:
    yield from sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """The modules that a file names in imports, those within functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                named = f"{node.module}.{alias.name}"
                yield named if (ROOT / f"{named.replace('.', '/')}.py").is_file() else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_contracts() -> None:
    done = contracts(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("search/weights.py", "from fungi_seg.bank import MemoryBank"),  # against the flow
        ("features/views.py", "from fungi_seg.features.objectives import KL"),  # a circle
        ("images/fitting.py", "def late() -> None:\n    from fungi_seg.datasets import Sample"),  # within a function
        (
            "datasets/paths.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fungi_seg.bank.rows import Rows",
        ),
    ],
)
def test_contracts_notice_a_forbidden_import(tmp_path: Path, file: str, line: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / "fungi_seg", ignore=shutil.ignore_patterns("__pycache__", "assets"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    changed = tmp_path / "fungi_seg" / file
    changed.write_text(f"{changed.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    done = contracts(tmp_path)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout


def test_rooms_are_entered_by_their_doors() -> None:
    """A module names another room, never a module in it, and never the door of its own room."""
    wrong = []
    for file in modules():
        room = file.relative_to(PACKAGE).parts[0]
        for name in imported(file):
            parts = name.split(".")
            if parts[0] != "fungi_seg" or len(parts) < 2 or parts[1] not in ROOMS or parts[1] == "commands":
                continue
            if (parts[1] == room) == (len(parts) == 2):
                wrong.append(f"{file.relative_to(ROOT)}: {name}")
    assert not wrong


def test_few_modules_stand_outside_the_rooms() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 9


def test_no_function_asks_for_too_much() -> None:
    wide = []
    for file in modules():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                names = [a.arg for a in arguments if a.arg not in ("self", "cls")]
                command = file.parent.name == "commands" and not node.name.startswith("_")
                if len(names) > MOST_PARAMETERS and not command:
                    wide.append(f"{file.relative_to(ROOT)}: {node.name} takes {len(names)}")
    assert not wide


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names(name: str) -> None:
    assert getattr(importlib.import_module("fungi_seg"), name).__name__ == name


@pytest.mark.parametrize("room", ["", *(r for r in ROOMS if (PACKAGE / r / "__init__.pyi").is_file())])
def test_every_name_of_a_door_is_there(room: str) -> None:
    module = importlib.import_module(f"fungi_seg.{room}".rstrip("."))
    assert [name for name in module.__all__ if getattr(module, name, None) is None] == []
