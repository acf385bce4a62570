"""extract and classify as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import HALF, TINY
from PIL import Image
from trees import class_tree, revisited_tree

from fungi_seg.cli import main

Run = tuple[int, str, str]


@pytest.fixture
def tiny(tiny_weights: Path) -> list[str]:
    """Options for the tiny backbone."""
    return [
        *("--backbone.name", "tiny", "--backbone.weights", str(tiny_weights), "--backbone.device", "cpu"),
        *("--backbone.model_args", json.dumps(TINY), f"--backbone.mean={list(HALF)}", f"--backbone.std={list(HALF)}"),
    ]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_tree(tmp_path_factory.mktemp("data") / "tree", ("circle", "square", "star"), train=8, val=3)


@pytest.fixture(scope="module")
def folders(tree: Path, tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> list[Path]:
    """Features by two seeds."""
    made = []
    for seed in (0, 1):
        made.append(tmp_path_factory.mktemp("features") / str(seed))
        options = ["--out", str(made[-1]), "--data.root", str(tree), "--features.seed", str(seed)]
        options += [
            "--backbone.name",
            "tiny",
            "--backbone.weights",
            str(tiny_weights),
            "--features.objectives",
            "kl,dino",
        ]
        options += ["--backbone.model_args", json.dumps(TINY), f"--backbone.mean={list(HALF)}"]
        assert main(["extract", *options, f"--backbone.std={list(HALF)}"]) == 0
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Run:
    code = main(list(map(str, arguments)))
    return (code, *capsys.readouterr())


def test_extract_then_classify_everything(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "out" / name for name in ("r.json", "r.md", "r.png")]
    options = ["--k", 5, "--shots", "2", "--json", files[0], "--markdown", files[1], "--chart", files[2]]
    code, out, _ = run(capsys, "classify", *folders, *options)
    assert code == 0
    for text in (out, files[1].read_text()):
        for name in (
            "embedding",
            "kl",
            "embedding+kl",
            "kl+dino",
            "embedding+kl+dino",
            "knn, 2 a class",
            "linear top-1",
        ):
            assert name in text
    assert "differ in more than the seed" not in out
    report = json.loads(files[0].read_text())
    assert [store["settings"]["seed"] for store in report["settings"]["stores"]] == [0, 1]
    found = {(r["features"], r["method"], r["shots"], r["metric"]): r for r in report["results"]}
    assert len({key[0] for key in found}) == 7
    assert {key[1] for key in found} == {"knn", "knn_weighted", "linear", "cluster", "retrieval"}
    assert len(found["embedding", "knn", None, "top1"]["values"]) == 2
    assert len(found["embedding", "knn", 2, "top1"]["values"]) == 6
    assert found["embedding", "knn", None, "top1"]["mean"] == 1.0  # a colour a class
    with Image.open(files[2]) as chart:
        assert min(chart.size) > 300


def test_lists_may_stand_without_brackets(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--methods", "knn", "--k=5", "--combinations=embedding,embedding+kl"]
    plain = run(capsys, "classify", folders[0], *options)
    options = ["--methods=[knn]", "--k", "5", "--combinations", '["embedding", "embedding+kl"]']
    assert plain[:2] == run(capsys, "classify", folders[0], *options)[:2]
    assert (plain[0], plain[1].count("embedding")) == (0, 2)


def test_pca_is_kept_beside_the_features(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--methods", "knn", "--k", "5", "--combinations", "embedding+kl", "--pca", "4"]
    first = run(capsys, "classify", folders[0], *options)
    kept = folders[0] / "pca-4-embedding+kl.safetensors"
    before = kept.read_bytes()
    assert first[:2] == run(capsys, "classify", folders[0], *options)[:2]
    assert kept.read_bytes() == before


def test_a_recipe_gives_the_options(
    tree: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"extract: {{out: {tmp_path / 'f'}, data: {{root: {tree}}}, features: {{objectives: [], seed: 4}}}}\n"
        f"classify: {{methods: [knn], k: 3, shots: [2]}}\n"
    )
    assert run(capsys, "extract", "--config", recipe, *tiny)[0] == 0
    code, out, _ = run(capsys, "classify", "--config", recipe, tmp_path / "f")
    assert code == 0
    assert "knn, 2 a class" in out


def test_extracting_again_computes_nothing(
    tree: Path, folders: list[Path], tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in folders[0].glob("*-0*.safetensors")}
    code, out, err = run(
        capsys, "extract", "--out", folders[0], "--data.root", tree, "--features.objectives", "kl,dino", *tiny
    )
    assert (code, err) == (0, "")
    assert out == f"{folders[0]}: 24 + 9 images, embedding, kl, dino\n"
    assert {file: file.stat().st_mtime_ns for file in folders[0].glob("*-0*.safetensors")} == before


def test_a_retrieval_benchmark(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = revisited_tree(tmp_path / "data")
    options = ["--data.name", "revisited", "--data.root", root, "--features.objectives", "kl", *tiny]
    assert run(capsys, "extract", "--out", tmp_path / "f", *options)[0] == 0
    code, out, _ = run(capsys, "classify", tmp_path / "f")
    assert code == 0
    assert "medium" in out
    assert "hard" in out


def test_bad_images_are_counted(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = class_tree(tmp_path / "data", train=3, val=2)
    broken = root / "train" / "circle" / "train_1.png"
    broken.write_bytes(b"no image")
    (root / "train" / "empty").mkdir()
    options = ["--out", tmp_path / "f", "--data.root", root, "--features.objectives", "[]", *tiny]
    code, _, err = run(capsys, "extract", *options)
    assert (code, "empty" in err, "--skip-bad" in err) == (1, True, True)
    assert not (tmp_path / "f").exists()
    code, out, err = run(capsys, "extract", *options, "--skip-bad")
    assert code == 0
    assert "skipped 2" in err
    assert "train_1" in err
    assert "5 + 4 images" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", "25"], "k is 25, the neighbours come from 24 training images"),
        (["--k", "5", "--shots", "9"], "shots is 9, but 3 classes have fewer training images"),
        (["--k", "5", "--pca", "25"], "pca is 25, for 24 training images of 24 dimensions"),
        (["--methods", "svm"], "methods is 'svm'; it must be one of knn"),
        (["--k", "5", "--combinations", "embedding+simclr"], "'simclr'; it must be one of embedding, kl, dino"),
        (
            ["--k", "9", "--shots", "2"],
            "the neighbours come from 6 training images; k must be between 1 and that",
        ),
        (["--k", "9", "--shots", "2"], "raise --shots if that is what makes them few"),
        (["--shots", "many"], "shots"),
        (["--json", "."], "--json .: is a folder; name a file in it"),
        (["--chart", "chart.jpg"], "--chart chart.jpg: the chart is a PNG; let the name end in .png"),
    ],
)
def test_settings_that_are_refused(
    folders: list[Path], capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    code, _, err = run(capsys, "classify", folders[0], *options)
    assert code in (1, 2)
    assert err.startswith("error: ")
    assert message in err


def test_features_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "classify", tmp_path)
    assert (code, "no features there (no features.json); make them with fungi-seg extract" in err) == (1, True)


def test_features_of_another_seed_are_not_overwritten(
    tree: Path, folders: list[Path], tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", folders[0], "--data.root", tree, "--features.objectives", "kl,dino", *tiny]
    code, _, err = run(capsys, "extract", *options, "--features.seed", "1")
    assert (code, "another recipe, fingerprint" in err, "seed 0 (here 1)" in err) == (1, True, True)


def test_more_clusters_than_images(
    tree: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data.root", tree, "--features.objectives", "deepcluster", *tiny]
    code, _, err = run(capsys, "extract", "--out", tmp_path / "f", *options)
    assert (code, "deepcluster looks for 64 clusters among 24 support images" in err) == (1, True)
    assert run(capsys, "extract", "--out", tmp_path / "f", *options, "--features.clusters", "4")[0] == 0


def test_download_is_named_where_data_are_missing(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", tmp_path / "f", "--data.name", "cifar10", "--data.root", tmp_path / "none", *tiny]
    code, _, err = run(capsys, "extract", *options)
    assert (code, "download" in err) == (1, True)
