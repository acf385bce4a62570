"""The command that holds a backbone against its baselines: what it measures, keeps and writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import HALF, TINY
from trees import folder_tree

from fungi_seg import (
    BackboneConfig,
    BankConfig,
    DataConfig,
    DataError,
    DecoderConfig,
    FeatureConfig,
    FungiSegError,
    InputConfig,
    Segmenter,
    build_bank,
    evaluate,
    load_backbone,
    open_dataset,
)
from fungi_seg.bank.settings import BankRecipe
from fungi_seg.cli import main
from fungi_seg.commands.comparing import compare_backbones
from fungi_seg.commands.settings import Root
from fungi_seg.evaluation import backbone_comparison
from fungi_seg.evaluation.cases import Case

ROWS = ["descriptor", "tiny, random weights", "tiny, plain", "tiny, FUNGI"]
MARKED = "# Card\n\nbefore\n<!-- begin results -->\nold table\n<!-- end results -->\nafter\n"


@pytest.fixture(autouse=True)
def _cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small cases: 144 patches of three images, and 40 of the 96 of two."""
    folder = DataConfig(layout="folder")
    cases = (
        Case("shapes", folder, "shapes", (48, 64)),
        Case("red of 2", folder, "shapes", (48, 64), shots=2, rows=40, score="red", sampled=True),
    )
    monkeypatch.setattr(backbone_comparison, "CASES", cases)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    folder_tree(root / "shapes", train=3, val=1)
    return root


@pytest.fixture
def compare(root: Path, tiny_config: BackboneConfig, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Compare, by default both cases and two seeds; the figures kept."""

    def call(**options: Any) -> list[dict[str, Any]]:
        kept = tmp_path / "deep" / "figures.json"
        settings = {"seeds": (0, 1), "cases": ("shapes", "red of 2"), "json": str(kept)} | options
        compare_backbones(Root(str(root)), tiny_config, **settings)
        figures: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))
        return figures

    return call


def refuse(*_: Any) -> float:
    raise AssertionError("measured again")


def by_hand(root: Path, out: Path, case: str, config: BackboneConfig, kind: str, seed: int) -> float:
    """A bank and its evaluation, as the commands make them."""
    train, val = (open_dataset(DataConfig(root=str(root / "shapes"), split=split)) for split in ("train", "val"))
    loaded = load_backbone(**vars(config))
    features, input = FeatureConfig(kind=kind, seed=seed), InputConfig((48, 64))
    if case == "red of 2":
        train = train.evenly(2)
    bank = build_bank(
        train, loaded, out, BankRecipe(features, input, BankConfig(40 if case == "red of 2" else 1000), seed)
    )
    report = evaluate(Segmenter(bank, bank.patch_features(backbone=loaded), DecoderConfig(30, 0.02)), val)
    return report.miou if case == "shapes" else float(report.classes[1]["iou"])


def test_figures(
    compare: Callable[..., list[dict[str, Any]]],
    root: Path,
    tiny_config: BackboneConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every seed where it makes a difference, and of the baselines the first alone; scores as by hand."""
    caplog.set_level("INFO", "fungi_seg")
    figures = compare()
    told = caplog.text
    made = [(f["case"]["name"], f["row"], f["kind"], f["seed"]) for f in figures]
    expected = []
    for case, plain_seeds in (("shapes", [0]), ("red of 2", [0, 1])):
        expected += [(case, "descriptor", "plain", 0), (case, "tiny, random weights", "plain", 0)]
        expected += [(case, "tiny, plain", "plain", seed) for seed in plain_seeds]
        expected += [(case, "tiny, FUNGI", "fungi", seed) for seed in (0, 1)]
    assert made == expected
    assert all(f["temperature"] == 0.02 for f in figures)
    assert all(f"{f['case']['name']} | {f['row']} | seed {f['seed']} | {100 * f['score']:.2f}" in told for f in figures)
    configs = {
        "descriptor": BackboneConfig("descriptor"),
        "tiny, random weights": BackboneConfig("tiny", "random", TINY, HALF, HALF, "cpu", "float32"),
    }
    for number, figure in enumerate(figures):
        config = configs.get(figure["row"], tiny_config)
        score = by_hand(root, tmp_path / str(number), figure["case"]["name"], config, figure["kind"], figure["seed"])
        assert figure["score"] == pytest.approx(score, abs=1e-6)
        assert figure["fingerprint"] == load_backbone(**vars(config)).fingerprint
    assert len({figure["score"] for figure in figures}) > 6


def test_nothing_is_measured_twice(
    compare: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = compare(seeds=(0,))
    measure = backbone_comparison.measure_case
    monkeypatch.setattr(backbone_comparison, "measure_case", refuse)
    assert compare(seeds=(0,)) == figures
    assert compare(seeds=(0,), cases=("shapes",)) == figures
    monkeypatch.setattr(backbone_comparison, "measure_case", measure)
    more = compare(seeds=(0, 1))
    assert more[: len(figures)] == figures
    assert [(f["case"]["name"], f["row"], f["seed"]) for f in more[len(figures) :]] == [
        ("shapes", "tiny, FUNGI", 1),
        ("red of 2", "tiny, plain", 1),
        ("red of 2", "tiny, FUNGI", 1),
    ]


def test_interrupted_work_is_kept(
    compare: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, done = backbone_comparison.measure_case, []

    def stop(*arguments: Any) -> float:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(measure(*arguments))
        return done[-1]

    with monkeypatch.context() as patched:
        patched.setattr(backbone_comparison, "measure_case", stop)
        with pytest.raises(KeyboardInterrupt):
            compare(seeds=(0,))
    figures = compare(seeds=(0,))
    assert [f["score"] for f in figures[:2]] == done
    assert len(figures) == 8


def test_another_temperature_is_measured_and_shown_apart(
    compare: Callable[..., list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    compare(seeds=(0,), cases=("shapes",))
    figures = compare(seeds=(0,), cases=("shapes",), temperature=0.5)
    assert [f["temperature"] for f in figures] == [0.02] * 4 + [0.5] * 4
    assert figures[0]["score"] != figures[4]["score"]
    table = capsys.readouterr().out.partition("| IoU %, τ = 0.5 |")[2]
    assert f"| descriptor | {100 * figures[4]['score']:.2f} |" in table


def test_markdown_between_the_marks(
    compare: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In every file named; what is around the marks stays, and a second time changes nothing."""
    files = [tmp_path / "a.md", tmp_path / "b.md"]
    for file in files:
        file.write_text(MARKED, encoding="utf-8")
    figures = compare(seeds=(0,), markdown=[str(file) for file in files])
    table = backbone_comparison.as_table(figures, ROWS, 0.02)
    assert table in capsys.readouterr().out
    wanted = MARKED.replace("old table\n", table)
    assert [file.read_text(encoding="utf-8") for file in files] == [wanted, wanted]
    compare(seeds=(0,), markdown=[str(files[0])])
    assert files[0].read_text(encoding="utf-8") == wanted


def test_missing_data(root: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root is '.*nowhere.*': no such folder"):
        compare_backbones(Root(str(root / "nowhere")), cases=("shapes",), json=str(root / "figures.json"))
    assert not (root / "figures.json").exists()


def test_another_backbone_is_shown_apart(compare: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    """Figures of an earlier training under the same name stay in the file, not in the table."""
    figures = compare(seeds=(0,), cases=("shapes",))
    kept, card = tmp_path / "deep" / "figures.json", tmp_path / "card.md"
    stale = [figure | {"fingerprint": "of another", "score": 1.0} for figure in figures]
    kept.write_text(json.dumps(stale + figures), encoding="utf-8")
    card.write_text(MARKED, encoding="utf-8")
    assert compare(seeds=(0,), cases=("shapes",), markdown=[str(card)]) == stale + figures
    assert f"| tiny, plain | {100 * figures[2]['score']:.2f} |" in card.read_text(encoding="utf-8")


def test_mistakes_are_told_before_the_work(
    compare: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backbone_comparison, "measure_case", refuse)
    with pytest.raises(FungiSegError, match=r"cases has \['shape'\]; it must be among shapes, red of 2"):
        compare(cases=("shapes", "shape"))
    (tmp_path / "card.md").write_text("no marks")
    with pytest.raises(FungiSegError, match=r"card\.md: must hold <!-- begin results --> and .* once each"):
        compare(markdown=[str(tmp_path / "card.md")])


def figure(case: str, row: str, score: float, seed: int = 0, temperature: float = 0.02) -> dict[str, Any]:
    return {"case": {"name": case}, "row": row, "score": score, "seed": seed, "temperature": temperature}


def test_table() -> None:
    """Mean and range of several seeds; one figure alone; a dash where there is none."""
    figures = [figure("red of 2", "mine", score, seed) for seed, score in enumerate((0.5, 0.25, 0.3))]
    figures += [figure("shapes", "mine", 0.12345), figure("shapes", "mine", 0.9, temperature=0.07)]
    figures += [figure("red of 2", "other", 1.0), figure("gone", "other", 0.5), figure("shapes", "unasked", 0.5)]
    assert backbone_comparison.as_table(figures, ["other", "mine"], 0.02).splitlines() == [
        "| IoU %, τ = 0.02 | shapes | red of 2 |",
        "|---|---:|---:|",
        "| other | – | 100.00 |",
        "| mine | 12.35 | 35.00 (25.00–50.00) |",
    ]


def test_table_of_what_was_measured_alone() -> None:
    table = backbone_comparison.as_table([figure("red of 2", "mine", 0.5)], ["mine"], 0.02)
    assert table.startswith("| IoU %, τ = 0.02 | red of 2 |\n|---|---:|\n| mine | 50.00 |\n")


def test_from_the_command_line(
    root: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "card.md").write_text(MARKED, encoding="utf-8")
    options = ["--data.root", root, "--cases=[shapes]", "--seeds=[4]", "--json", tmp_path / "figures.json"]
    options += ["--backbone.name=tiny", f"--backbone.weights={tiny_weights}", f"--backbone.mean={list(HALF)}"]
    options += [f"--backbone.model_args={json.dumps(TINY)}", f"--backbone.std={list(HALF)}", "--backbone.device=cpu"]
    options += [f"--markdown=[{tmp_path / 'card.md'}]"]

    def call(*more: str) -> int:
        return main(["compare-backbones", *map(str, options), *more])

    assert call() == 0
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert [(f["row"], f["seed"]) for f in figures] == [(row, 4) for row in ROWS]
    assert "| tiny, FUNGI |" in (tmp_path / "card.md").read_text(encoding="utf-8")
    monkeypatch.setattr(backbone_comparison, "measure_case", refuse)
    assert call() == 0
    capsys.readouterr()
    assert call("--backbone.weights=nowhere.pth") == 1
    assert "nowhere.pth': no such file" in capsys.readouterr().err
