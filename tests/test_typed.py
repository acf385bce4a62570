"""The package's types, as a type checker sees them from outside, of the package as it is installed."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "tests" / "data"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel and those libraries whose types a user meets.

    That of torch would take most of the time, and is none of them.
    """
    folder = tmp_path_factory.mktemp("typed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    packages = next((folder / "venv").glob("lib/python*/site-packages"))
    for library in ("numpy", "PIL"):
        (packages / library).symlink_to(Path(sysconfig.get_paths()["purelib"]) / library)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(packages)
    return folder / "venv" / "bin" / "python"


def checked(python: Path, script: str) -> subprocess.CompletedProcess[str]:
    """What `mypy --strict` says of a script, none of the checkout's settings or modules in sight."""
    folder = python.parent
    (folder / script).write_text((SCRIPTS / script).read_text())
    options = ["--strict", "--config-file=", "--python-executable", str(python), "--cache-dir", str(folder / "cache")]
    command = [sys.executable, "-m", "mypy", *options, script]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_program_of_a_user_has_no_untyped_call(installed: Path) -> None:
    found = checked(installed, "typed_use.py")
    assert (found.returncode, found.stdout) == (0, "Success: no issues found in 1 source file\n"), found.stderr


def test_what_is_wrong_is_found(installed: Path) -> None:
    found = checked(installed, "typed_misuse.py")
    lines = (SCRIPTS / "typed_misuse.py").read_text().splitlines()
    wrong = [number for number, line in enumerate(lines, 1) if line.endswith("# wrong")]
    assert [int(number) for number in re.findall(r"typed_misuse\.py:(\d+): error: ", found.stdout)] == wrong
