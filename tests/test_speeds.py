"""The profile of this machine: measured once, kept, and made again without a word where it can't be used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch

from fungi_seg.search import speeds as module
from fungi_seg.search.speeds import Speeds, measured, profile_path, speeds

MADE = Speeds(1e9, 2e9, 3e9, 4e9, 5e9)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Grows with each measuring; the cache folder is empty."""
    counted: list[int] = []
    monkeypatch.setattr(module.platformdirs, "user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))
    monkeypatch.setattr(module, "measured", lambda: counted.append(1) or MADE)
    module._speeds.cache_clear()
    yield counted
    module._speeds.cache_clear()


def again() -> Speeds:
    """As another process would get them."""
    module._speeds.cache_clear()
    return speeds()


def test_measured_once_and_kept(runs: list[int], tmp_path: Path) -> None:
    assert speeds() == speeds() == again() == MADE
    assert len(runs) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["search-speeds.json"]
    profile = json.loads(profile_path().read_text())
    assert profile["machine"]["torch"] == torch.__version__
    assert profile["threads"] == {str(torch.get_num_threads()): asdict(MADE)}


@pytest.mark.parametrize("threads", [1, 3, 64])
def test_threads_have_speeds_of_their_own(threads: int, runs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (2, threads, 2, threads):
        monkeypatch.setattr(module.torch, "get_num_threads", lambda count=count: count)
        again()
    assert len(runs) == 2
    assert json.loads(profile_path().read_text())["threads"].keys() == {"2", str(threads)}


def changed(name: str, value: object) -> Callable[[dict], object]:
    return lambda profile: profile | {"machine": profile["machine"] | {name: value}}


def with_speeds(values: object) -> Callable[[dict], object]:
    return lambda profile: profile | {"threads": dict.fromkeys(profile["threads"], values)}


@pytest.mark.parametrize(
    "change",
    [
        changed("processor", "Another"),
        changed("instructions", "0"),
        changed("cores", 1000),
        changed("torch", "1.0"),
        changed("faiss", "1.0"),
        changed("version", 0),
        lambda profile: profile | {"machine": None},
        lambda profile: {"machine": profile["machine"]},
        lambda profile: profile | {"threads": 3},
        lambda profile: profile | {"threads": [1]},
        lambda profile: [],
        lambda profile: None,
        with_speeds(None),
        with_speeds([1, 2]),
        with_speeds({}),
        with_speeds(asdict(MADE) | {"more": 1.0}),
        *(with_speeds(asdict(MADE) | {field.name: "1e9"}) for field in fields(Speeds)),
        *(with_speeds(asdict(MADE) | {field.name: -1.0}) for field in fields(Speeds)),
        *(with_speeds(asdict(MADE) | {field.name: float("nan")}) for field in fields(Speeds)),
        *(with_speeds(asdict(MADE) | {field.name: float("inf")}) for field in fields(Speeds)),
        *(with_speeds(asdict(MADE) | {field.name: 10**400}) for field in fields(Speeds)),
        *(with_speeds(asdict(MADE) | {name: 0.0}) for name in ("float32", "codes", "reading")),
    ],
)
def test_a_profile_of_something_else_is_made_again(
    change: Callable[[dict], object], runs: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    speeds()
    path = profile_path()
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(change(whole)))
    assert again() == MADE
    assert len(runs) == 2
    assert json.loads(path.read_text()) == whole
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"null", b'{"threads": {"1": '])
def test_a_damaged_profile_is_made_again(content: bytes, runs: list[int], capfd: pytest.CaptureFixture[str]) -> None:
    profile_path().parent.mkdir(parents=True)
    profile_path().write_bytes(content)
    assert speeds() == MADE
    assert json.loads(profile_path().read_text())["threads"]
    assert again() == MADE
    assert len(runs) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("blocked", ["file in place of the folder", "folder in place of the file", "no permission"])
def test_where_nothing_can_be_kept_it_is_measured_in_memory(
    blocked: str, runs: list[int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = profile_path().parent
    if blocked == "file in place of the folder":
        folder.write_text("")
    elif blocked == "folder in place of the file":
        (profile_path() / "full").mkdir(parents=True)
    else:  # as root, no folder is without permission
        monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError("read-only")))
    assert speeds() == speeds() == MADE
    assert len(runs) == 1
    assert again() == MADE
    assert len(runs) == 2
    assert capfd.readouterr() == ("", "")


def test_what_is_measured_is_there_and_threads_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG_ENOUGH", 0.0)
    monkeypatch.setattr(module, "LEAST_RUNS", 1)
    before = torch.get_num_threads(), module.faiss.omp_get_max_threads()
    found = measured()
    assert (torch.get_num_threads(), module.faiss.omp_get_max_threads()) == before
    assert np.isfinite(list(asdict(found).values())).all()
    assert min(found.float32, found.codes, found.reading) > 0
    assert (found.int8 > 0, found.bfloat16 > 0) == (module.has_int8(), module.has_bfloat16())
