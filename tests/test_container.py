"""The recipe of the container image, as far as it can be held against the checkout without building it."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
import yaml

from fungi_seg.commands.options import read_request
from fungi_seg.commands.table import COMMANDS

ROOT = Path(__file__).parent.parent
Instructions = list[tuple[str, str]]


@pytest.fixture(scope="module")
def recipe() -> Instructions:
    """Instructions of the Dockerfile with what follows them, lines that go on joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def copied(recipe: Instructions) -> list[tuple[str, str]]:
    """Source and target of everything that is copied into the image."""
    found = []
    for _, rest in (one for one in recipe if one[0] == "COPY"):
        *sources, target = shlex.split(rest)
        found += [(source, f"{target}{source}" if target.endswith("/") else target) for source in sources]
    return found


def test_what_is_copied_is_there_and_is_sent_along(recipe: Instructions) -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert (ROOT / ".dockerignore").read_text().splitlines()[0] == "*"
    for source, _ in copied(recipe):
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, name) for name in kept), source


def test_what_is_copied_suffices_to_install_the_package(recipe: Instructions, tmp_path: Path) -> None:
    """With all files of the package that a checkout would install."""
    for source, target in copied(recipe):
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, tmp_path / target)
    assert any("-c constraints.txt" in rest and ".[objects]" in rest for word, rest in recipe if word == "RUN")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d"]
    for folder, out in ((tmp_path, "one"), (ROOT, "two")):
        subprocess.run([*build, str(tmp_path / out)], cwd=folder, check=True, capture_output=True)
    one, two = (next((tmp_path / out).glob("*.whl")).read_bytes() for out in ("one", "two"))
    assert len(one) == len(two)


def test_it_runs_the_command_and_not_as_root(recipe: Instructions) -> None:
    words = [word for word, _ in recipe]
    user = next(rest for word, rest in recipe if word == "USER")
    assert user not in ("root", "0")
    assert any(f"useradd --create-home --uid 1000 {user} " in rest for word, rest in recipe if word == "RUN")
    assert words.index("USER") > max(number for number, word in enumerate(words) if word == "RUN")
    assert json.loads(dict(recipe)["ENTRYPOINT"]) == ["fungi-seg"]
    assert words[0] == "FROM"


def test_its_python_is_one_that_the_package_and_the_constraints_know(recipe: Instructions) -> None:
    version = re.fullmatch(r"python:3\.(\d+)-slim", recipe[0][1])
    assert version
    assert int(version[1]) >= 11  # the newest versions in constraints.txt
    pinned = [line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert {"torch", "torchvision"} <= {*pinned}


def test_the_composition_mounts_what_its_command_names(recipe: Instructions) -> None:
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["fungi-seg"]
    assert (ROOT / service["build"] / "Dockerfile").is_file()
    name, *arguments = service["command"]
    request = read_request(COMMANDS[name], arguments)
    mounts = [text.split(":") for text in service["volumes"]]
    writable = {target for _, target, *mode in mounts if mode != ["ro"]}
    home = PurePosixPath([rest for word, rest in recipe if word == "WORKDIR"][-1])
    for path, written in ((request.values["bank"], True), (request.values["images"][0], False), ("outputs/own", True)):
        folders = {str(folder) for folder in (home / path, *(home / path).parents)}
        assert folders & (writable if written else {target for _, target, *_ in mounts}), path
    assert {source for source, *_ in mounts if "/" not in source} == {"weights"}


def test_the_other_command_that_it_shows_is_one() -> None:
    text = (ROOT / "compose.yaml").read_text()
    name, *arguments = shlex.split(re.search(r"fungi-seg (build .*)", text)[1])  # type: ignore[index]
    assert read_request(COMMANDS[name], arguments).values["out"] == "memory_banks/own"
