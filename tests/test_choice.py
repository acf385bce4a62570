"""Which way of searching is taken, by profiles of several machines."""

from __future__ import annotations

import json
from dataclasses import replace

import faiss
import pytest
from conftest import SPEEDS

from fungi_seg import FungiSegError, IndexConfig, MemoryBank
from fungi_seg.cli import main
from fungi_seg.search import choice
from fungi_seg.search.choice import FLAT_UP_TO, chosen
from fungi_seg.search.speeds import Speeds

CPU = IndexConfig(device="cpu")
AMX = Speeds(float32=150e9, bfloat16=1000e9, int8=1800e9, codes=60e9, reading=10e9)
PLAIN = Speeds(float32=20e9, bfloat16=0.0, int8=0.0, codes=20e9, reading=5e9)


@pytest.mark.parametrize(
    ("speeds", "rows", "config", "kind"),
    [
        (SPEEDS, 1, CPU, "flat"),
        (SPEEDS, FLAT_UP_TO, CPU, "flat"),
        (SPEEDS, FLAT_UP_TO + 1, CPU, "int8"),
        (SPEEDS, 20_000, CPU, "int8"),
        (SPEEDS, 102_400, CPU, "lists"),
        (SPEEDS, 10_000_000, CPU, "lists"),
        (SPEEDS, 102_400, IndexConfig("flat", device="cpu"), "int8"),
        (SPEEDS, 10_000_000, IndexConfig("flat", device="cpu"), "int8"),
        (SPEEDS, 102_400, IndexConfig(recall=1.0, device="cpu"), "int8"),
        (SPEEDS, 102_400, IndexConfig(recall=0.9999, device="cpu"), "int8"),
        (AMX, 20_000, CPU, "int8"),
        (replace(AMX, int8=900e9), 20_000, CPU, "bfloat16"),
        (replace(AMX, int8=0.0), 102_400, IndexConfig("flat", device="cpu"), "bfloat16"),
        (PLAIN, 5000, CPU, "flat"),
        (PLAIN, 102_400, CPU, "lists"),
        (PLAIN, 102_400, IndexConfig("flat", device="cpu"), "flat"),
        (SPEEDS, 102_400, IndexConfig("lists", device="cpu"), "lists"),
        (SPEEDS, 10, IndexConfig("int8", device="cpu"), "int8"),
        (SPEEDS, 10, IndexConfig("IVF512,PQ8", device="cpu"), "IVF512,PQ8"),
    ],
)
def test_the_fastest_way_is_taken(
    speeds: Speeds, rows: int, config: IndexConfig, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "speeds", lambda: speeds)
    assert chosen(rows, 768, config).kind == kind


def test_lists_that_scan_codes_slowly_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without 8-bit integers lists hold codes; where those are slow, exact search is as fast."""
    monkeypatch.setattr(choice, "has_int8", lambda: False)
    for codes, kind in ((600e9, "lists"), (20e9, "bfloat16")):
        monkeypatch.setattr(choice, "speeds", lambda codes=codes: replace(AMX, int8=0.0, codes=codes))
        assert chosen(102_400, 768, CPU).kind == kind


def test_narrow_rows_are_compared_in_float32() -> None:
    """Their products take no time, so that bounds on rounding would take most of it."""
    flat = IndexConfig("flat", device="cpu")
    assert [chosen(20_000, dim, flat).kind for dim in (64, 768)] == ["flat", "int8"]


def test_few_queries_wait_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """One query's products take no time: what is read decides, so that short numbers are better however slow."""
    monkeypatch.setattr(choice, "speeds", lambda: replace(SPEEDS, int8=50e9, reading=1e9))
    flat = IndexConfig("flat", device="cpu")
    assert (chosen(50_000, 768, flat, 1).kind, chosen(50_000, 768, flat, 1024).kind) == ("int8", "bfloat16")


def test_what_needs_no_measuring_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "speeds", None)
    assert chosen(FLAT_UP_TO, 768, CPU).why == "exact, for 4096 rows are few"
    for kind in ("int8", "bfloat16", "lists", "IVF512,Flat"):
        assert chosen(10**6, 768, IndexConfig(kind, device="cpu")).why == "index.kind names it"


def test_on_a_gpu_everything_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    assert chosen(10_000_000, 768, IndexConfig()).kind == "flat"
    assert chosen(10, 768, IndexConfig("IVF512,PQ8")).kind == "IVF512,PQ8"


def test_the_reason_tells_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "processor_name", lambda: "Some Processor")
    why = chosen(20_000, 768, CPU).why
    assert why.startswith(
        "exact: 1024 patches take about 0.21 s in float32, 0.15 s in bfloat16, 0.1 s in 8-bit integers"
    )
    assert "8-bit integers (Some Processor, " in why
    why = chosen(102_400, 768, CPU).why
    assert why.startswith("finds nearly all neighbours in the least time: 1024 patches take")
    assert "by lists (Some Processor, " in why


@pytest.mark.parametrize(("kind", "numbers"), [("int8", "8-bit integers"), ("bfloat16", "bfloat16")])
def test_numbers_that_the_processor_does_not_multiply(kind: str, numbers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, f"has_{'int8' if kind == 'int8' else 'bfloat16'}", lambda: False)
    message = (
        rf"index\.kind is {kind}, but this processor \(.+\) has no instructions for products in {numbers}; use .*flat"
    )
    with pytest.raises(FungiSegError, match=message):
        chosen(10, 768, IndexConfig(kind, device="cpu"))


def test_inspect_says_how_a_bank_is_searched(
    bank: MemoryBank, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        assert main(["bank", "inspect", "--bank", str(bank.path), "--json", "-"]) == 0
        return json.loads(capsys.readouterr().out)["search"]

    assert said() == f"flat: exact, for {len(bank)} rows are few"
    monkeypatch.setattr(choice, "FLAT_UP_TO", 10)
    assert said().startswith("flat: exact: 1024 patches take about ")


def test_a_plan_says_how_the_bank_will_be_searched(
    bank: MemoryBank, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "FLAT_UP_TO", 10)
    arguments = ["plan", "--data.root", str(bank.path.parent / "data"), "--data.split", "train", "--input.size", "64"]
    arguments += ["--backbone.name", "embedded", "--calibrate", "false"]
    assert main(arguments) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "index (auto, CPU)" in out
    assert "int8: exact: 1024 patches take about" in out
    assert main([*arguments, "--json", "-"]) == 0
    needs = json.loads(capsys.readouterr().out)["needs"]
    assert (needs["index"], needs["index_why"][:5]) == ("int8", "exact")
