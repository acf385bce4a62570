"""What the benchmarks say of the machine, and how they take times."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

TOOLS = str(Path(__file__).parents[1] / "tools")
AVX2 = {"avx2", "fma", "avx"}
AVX512 = AVX2 | {"avx512f", "avx512dq", "avx512bw", "avx512vl"}


@pytest.fixture(autouse=True)
def tools() -> Iterator[None]:
    """Modules of tools/ by their names, as where its scripts run."""
    sys.path.insert(0, TOOLS)
    yield
    sys.path.remove(TOOLS)


@pytest.mark.parametrize(
    ("flags", "core"), [(AVX512, "SkylakeX"), (AVX2, "Haswell"), ({"avx"}, None), ({"asimd"}, None), (set(), None)]
)
def test_core_type_that_suits(flags: set[str], core: str | None) -> None:
    from machine import core_type

    assert core_type(flags) == core


@pytest.mark.parametrize("kernels", ["Prescott", "Core2", "Generic", "unknown"])
def test_fallback_kernels_are_warned_of(
    kernels: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import benchmark_search

    monkeypatch.setattr(benchmark_search, "instructions", lambda: AVX512)
    benchmark_search.warn_of_fallback({"FAISS": kernels})
    said = capsys.readouterr().err
    assert f"takes its {kernels} kernels" in said
    assert "OPENBLAS_CORETYPE=SkylakeX in the environment mends it" in said


@pytest.mark.parametrize(
    ("kernels", "flags"), [("SkylakeX", AVX512), ("Zen", AVX512), ("Haswell", AVX2), (None, AVX512), ("Nehalem", set())]
)
def test_kernels_that_suit_are_not(
    kernels: str | None, flags: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import benchmark_search

    monkeypatch.setattr(benchmark_search, "instructions", lambda: flags)
    benchmark_search.warn_of_fallback({"FAISS": kernels})
    assert capsys.readouterr().err == ""


def test_baselines_search(tmp_path: Path) -> None:
    import benchmark_search

    keys = np.random.default_rng(0).standard_normal((100, 16)).astype(np.float32)
    np.save(tmp_path / "keys.npy", keys)
    for name in benchmark_search.baseline_names():
        with benchmark_search.baseline(name, tmp_path / "keys.npy", tmp_path / "keys.npy") as search:
            assert 0 < search() < 60
            assert search.kernels is None or search.kernels.isascii()


def test_things_take_turns() -> None:
    from timing import turns

    done: list[str] = []
    times = turns({"a": lambda: done.append("a"), "b": lambda: done.append("b") or 2.0}, repeats=3, warm_up=1)
    assert done == ["a", "b"] * 4
    assert times["b"] == [2.0] * 3
    assert times.median("b") == 2
    assert len(times["a"]) == 3


def test_ratios_are_those_of_rounds() -> None:
    from timing import Times

    times = Times({"a": [1.0, 10.0, 1.0], "b": [3.0, 20.0, 4.0]})
    assert times.ratio("b", "a") == 3
