"""The start of the command line: what it imports, helps with, refuses, tells, and leaves to the shell."""

from __future__ import annotations

import importlib.metadata
import logging
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import HALF, TINY
from test_cli import Output, Run, backbone_options, bank, data, run  # noqa: F401

from fungi_seg import FungiSegError, __version__, results
from fungi_seg.cli import main
from fungi_seg.commands.options import help_of, option_parser, read_request
from fungi_seg.commands.table import COMMANDS, GROUPS
from fungi_seg.config import find, shipped
from fungi_seg.errors import reason
from fungi_seg.progress import track

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "torchvision", "timm", "faiss", "cv2", "sklearn", "matplotlib", "numpy", "scipy", "PIL", "rich"}
SPY = """
import sys
from fungi_seg.cli import main
code = main(sys.argv[1:])
print(code, *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def started(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


# What is imported


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--version", 0),
        ("--help", 0),
        ("bank --help", 0),
        ("build --help_all", 0),
        ("evaluate --bnk x --protocol native", 2),
        ("evaluate --config voc_dino_s16 --protocol natve", 2),
        ("build --config own_folder --bank.size 0", 2),
        ("sweep --out x --k 0", 2),
        ("classify x --k 0", 2),
        ("bank remove --bank x", 2),
        ("bank compact --bank x --key_dtype int5", 2),
        ("explain a.png --bank x --out y", 2),
        ("build --config own_folder --print_config", 0),
        ("--print_completion bash", 0),
    ],
)
def test_nothing_heavy_is_imported_before_the_work(line: str, expected: int, tmp_path: Path) -> None:
    done = started("-c", SPY, *line.split(), cwd=tmp_path)
    code, *modules = done.stderr.splitlines()[-1].split()
    assert int(code) == expected, done.stderr
    assert not HEAVY & set(modules)
    assert not list(tmp_path.iterdir())


def test_every_command_helps_without_the_work() -> None:
    lines = "; ".join(f"print(help_of(COMMANDS[{name!r}], False))" for name in COMMANDS)
    code = "import sys; from fungi_seg.commands.options import help_of; from fungi_seg.commands.table import COMMANDS; "
    done = started("-c", code + lines + "; print(*sys.modules, file=sys.stderr)")
    assert done.returncode == 0, done.stderr
    assert not HEAVY & {name.partition(".")[0] for name in done.stderr.split()}
    assert done.stdout.count("usage: fungi-seg ") == len(COMMANDS)


def test_the_package_imports_nothing_heavy() -> None:
    done = started("-c", "import sys, fungi_seg; print(*sys.modules)")
    assert not (HEAVY | {"yaml", "jsonargparse"}) & {name.partition(".")[0] for name in done.stdout.split()}


def test_the_package_as_a_program() -> None:
    done = started("-m", "fungi_seg", "--version")
    assert (done.returncode, done.stdout) == (0, f"fungi-seg {__version__}\n")
    assert importlib.metadata.version("fungi-seg") == __version__


# Help


@pytest.mark.parametrize("flag", ["--help", "-h", "--help_all", "--help-all"])
def test_help(run: Run, flag: str) -> None:  # noqa: F811
    code, out, err = run(flag)
    assert (code, err) == (0, "")
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in COMMANDS)
    assert run("build", flag)[0] == 0


def test_no_command(run: Run) -> None:  # noqa: F811
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "usage: fungi-seg COMMAND" in err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(run: Run, name: str) -> None:  # noqa: F811
    """The short help shows the options of the table, each of which there is; the long one shows all."""
    command = COMMANDS[name]
    code, short, _ = run(*name.split(), "--help")
    everything = run(*name.split(), "--help_all")[1]
    assert code == 0
    assert short.startswith(f"usage: fungi-seg {name} ")
    own = {
        o[2:]
        for a in option_parser(command)._actions
        for o in a.option_strings
        if o[:2] == "--" and not o.endswith(".help")
    }
    common = command.common.split()
    assert set(common) <= own
    assert len(common) <= 10
    listed = {word[2:] for word in re.findall(r"^  (--[\w.]+)", short, re.MULTILINE)}
    always = {"config", "threads", "print_config", "quiet", "verbose", "help_all"}
    if common:
        assert listed == {*common, *always} | (listed & _required(command.function()))
        assert f"more options: fungi-seg {name} --help_all" in short
    groups = {o for o in own if any(other.startswith(f"{o}.") for other in own)}
    for option in own - groups - {"help", "print_shtab"}:
        assert f"--{option} " in everything or f"--{option}\n" in everything


def _required(function: Callable[..., None]) -> set[str]:
    import inspect

    return {name for name, given in inspect.signature(function).parameters.items() if given.default is given.empty}


def test_required_options_are_in_the_short_help() -> None:
    for command in COMMANDS.values():
        text = help_of(command, False)
        assert all(name in text for name in _required(command.function())), command.name


# Exit codes


@dataclass(frozen=True)
class Case:
    code: int
    line: str
    message: str


CASES = (
    Case(2, "bild", "no command 'bild'; did you mean 'build'"),
    Case(2, "inspect", "did you mean 'data inspect' or 'bank inspect'?"),
    Case(2, "bank", "usage: fungi-seg COMMAND"),
    Case(2, "bank appendd", "did you mean 'bank append'"),
    Case(2, "build", "out"),
    Case(2, "build --out b --bank.size many", "bank.size"),
    Case(2, "build --out b --bank.size 0", "bank.size is 0"),
    Case(
        2, "build --out b --backbone.dtype half", "backbone.dtype is 'half'; it must be one of auto, bfloat16, float32"
    ),
    Case(2, "build --out b --seed -1", "seed is -1"),
    Case(2, "build --out b --train_list ids.txt", "did you mean '--data.file_list'?"),
    Case(2, "build --out b --protocol dpi", "protocol is 'dpi'; it must be one of best, dip, fungi, hbird-v2, native"),
    Case(2, "build --out b --config own_foldr", "did you mean 'own_folder'?"),
    Case(2, "build --out b --config gone.yaml", "gone.yaml"),
    Case(2, "build --out b --config wrong.yaml", "unknown section 'biuld'; did you mean 'build'"),
    Case(2, "build --out b --config empty.yaml", "section 'build', has no value for 'out'"),
    Case(2, "build --out b stray", "stray"),
    Case(2, "plan --seed -1", "seed is -1"),
    Case(2, "segment a.png --bank b --out o --weights w", "did you mean '--backbone.weights'?"),
    Case(2, "segment a.png --bank b --out o --backbone.dtype half", "backbone.dtype is 'half'"),
    Case(2, "segment --bank b --out o", "images"),
    Case(2, "evaluate --bank b --predictions p", "give one of them"),
    Case(2, "evaluate --bank b --data.layout voc", "data.split is empty"),
    Case(2, "explain a.png --bank b --out o", "neither of at and region"),
    Case(2, "sweep --out o --val_split=", "val_split is empty"),
    Case(2, "sweep --out o --k 3,3", "none twice"),
    Case(2, "compare-backbones", "data.root is empty"),
    Case(2, "compare-backbones --data.root x --json -", "name a file"),
    Case(2, "compare-backbones --data.root x --cases cam", "cases has ['cam']"),
    Case(2, "classify f --methods svm", "methods is 'svm'"),
    Case(2, "classify f --chart chart.jpg", "let the name end in .png"),
    Case(2, "data inspect . --images 0", "images is 0"),
    Case(2, "data inspect . --data.layout vco", "data.layout is 'vco'"),
    Case(2, "data inspect . --load.workers -1", "load.workers -1"),
    Case(2, "bank audit --bank b --top 0", "top is 0"),
    Case(2, "bank remove --bank b", "nothing to remove"),
    Case(2, "bank relabel --bank b", "nothing to change"),
    Case(2, "bank relabel --bank b --rename red", "it must be old=new"),
    Case(2, "bank compact --bank b --key_dtype int5", "key_dtype is 'int5'"),
    Case(2, "bank index --bank b --recall 2", "recall is 2.0"),
    Case(2, "--print_completion ksh", "print_completion is 'ksh'; it must be one of bash, zsh"),
    Case(1, "build --out b --data.root gone --data.split train --backbone.name embedded", "gone"),
    Case(1, "segment gone.png --bank b --out o", "gone.png"),
    Case(1, "bank inspect --bank gone", "gone: no memory bank there"),
    Case(1, "classify gone", "gone"),
    Case(1, "data inspect gone", "gone"),
    Case(1, "mmseg-test gone.py", "gone.py"),
    Case(0, "build --print_config", "build:"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.line)
def test_exit_codes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:  # noqa: F811
    """2 is wrong usage, found before work begins; 1 a failure; in both cases nothing is written."""
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text("biuld: {}\n")
    Path("empty.yaml").write_text("build: {out: null}\n")
    before = sorted(tmp_path.iterdir())
    code, out, err = run(*case.line.split())
    assert code == case.code, err
    assert case.message in (out if case.code == 0 else err)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("tool", ["build_bank", "segment", "evaluate"])
def test_tools_have_the_same_exit_codes(tool: str) -> None:
    done = started(ROOT / "tools" / f"{tool}.py", "--bnak", "x")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown option --bnak")


def test_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "find_images", interrupt)
    code, _, err = run("segment", "a.png", "--bank", "b", "--out", "o")
    assert (code, "interrupted; nothing half-written counts" in err) == (130, True)


@pytest.mark.parametrize(
    "error", [MemoryError("much"), torch.cuda.OutOfMemoryError("gpu"), RuntimeError("DefaultCPUAllocator: can't")]
)
def test_out_of_memory(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:  # noqa: F811
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(results, "find_images", fail)
    code, _, err = run("segment", "a.png", "--bank", "b", "--out", "o")
    assert (code, err.startswith(f"error: out of memory ({reason(error)}); lower load.batch_size")) == (1, True)


def test_other_errors_are_mistakes_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(results, "find_images", fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        main(["segment", "a.png", "--bank", "b", "--out", "o"])


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_interrupted_from_outside(data: Path, tiny_weights: Path, tmp_path: Path) -> None:  # noqa: F811
    """SIGINT while images are worked through."""
    slow = "import time, fungi_seg.datasets.common as c; old = c.Dataset.__getitem__; "
    slow += "c.Dataset.__getitem__ = lambda self, i: (print('at work', flush=True), time.sleep(60)) and old(self, i); "
    options = [
        *("build", "--data.root", data, "--data.split", "train", "--out", tmp_path / "bank", "--load.workers", "0"),
        *backbone_options(tiny_weights),
    ]
    code = slow + "import sys; from fungi_seg.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as work:
        assert work.stdout is not None
        while work.stdout.readline() != "at work\n":
            assert work.poll() is None
        work.send_signal(signal.SIGINT)
        _, err = work.communicate(timeout=60)
    assert work.returncode == 130
    assert "interrupted" in err
    assert not (tmp_path / "bank").exists()


# What is told


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    """Leave loggers as they were."""
    names = ("fungi_seg", "fungi_seg.progress")
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def segmented(run: Run, data: Path, bank: Path, out: Path, *options: object) -> Output:  # noqa: F811
    return run("segment", data / "val" / "images", "--bank", bank, "--out", out, *options)


def test_quiet_tells_results_and_errors_alone(
    run: Run,  # noqa: F811
    data: Path,  # noqa: F811
    bank: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    assert segmented(run, data, bank, tmp_path / "o", "--quiet") == (
        0,
        f"{tmp_path / 'o'}: 2 images segmented; look at {tmp_path / 'o' / 'index.html'}\n",
        "",
    )
    assert "segmentation: 2/2 images" in segmented(run, data, bank, tmp_path / "other")[2]
    code, out, err = run("--quiet", "segment", "gone.png", "--bank", bank, "--out", tmp_path)
    assert (code, out, err.startswith("error: ")) == (1, "", True)
    (tmp_path / "in").mkdir()
    shutil.copy(data / "val" / "images" / "val_0.png", tmp_path / "in")
    (tmp_path / "in" / "cut.png").write_bytes(b"\x89PNG")
    _, _, err = run("segment", tmp_path / "in", "--bank", bank, "--out", tmp_path / "p", "--skip-bad", "--quiet")
    assert err.startswith("skipped 1:\n")


def test_verbose_tells_where_an_error_comes_from(run: Run, bank: Path, tmp_path: Path) -> None:  # noqa: F811
    code, _, err = run("segment", "gone.png", "--bank", bank, "--out", tmp_path, "--verbose")
    assert code == 1
    assert f"fungi-seg {__version__}: segment {{" in err
    assert "Traceback" in err
    assert "in find_images" in err
    assert "Traceback" not in run("segment", "gone.png", "--bank", bank, "--out", tmp_path)[2]


def test_without_standard_error(data: Path, bank: Path, tmp_path: Path) -> None:  # noqa: F811
    """Services and windowed programs have none."""
    code = "import sys; sys.stderr = None; from fungi_seg.cli import main; sys.exit(main())"
    options = ["segment", data / "val" / "images", "--bank", bank, "--out", tmp_path / "out"]
    done = started("-c", code, *options)
    assert (done.returncode, done.stdout) == (
        0,
        f"{tmp_path / 'out'}: 2 images segmented; look at {tmp_path / 'out' / 'index.html'}\n",
    )
    silent = "import sys; sys.stderr = None; from fungi_seg.progress import track; list(track(range(3), 3, 'x'))"
    done = started("-c", silent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_package_prints_nothing_by_itself() -> None:
    """Results are printed by commands; what else is told goes to loggers."""
    printing = re.compile(r"(?<![\w.])print\(")
    files = [file for file in (ROOT / "fungi_seg").rglob("*.py") if file.parent.name != "commands"]
    found = {str(file.relative_to(ROOT)) for file in files if printing.search(file.read_text(encoding="utf-8"))}
    assert found == {"fungi_seg/cli.py", "fungi_seg/progress.py"}


def test_progress_can_be_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), 3, "work")) == [0, 1, 2]
    assert "work: 3/3 images" in capsys.readouterr().err
    logging.getLogger("fungi_seg.progress").setLevel(logging.WARNING)
    assert list(track(range(3), 3, "work")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


# Recipes that come with the package, and the options as a recipe


def test_shipped_files() -> None:
    assert {"own_folder", "voc_dino_s16", "sweep", "image_features"} <= shipped().keys()
    assert shipped("protocols").keys() == {"best", "dip", "fungi", "hbird-v2", "native"}
    assert shipped("mmseg", ".py").keys() == {"ade20k", "voc12"}
    assert find("config", "own_folder") == ROOT / "configs" / "own_folder.yaml"
    assert find("config", "here/own_folder") == Path("here/own_folder")
    assert find("config", "own_folder.yaml") == Path("own_folder.yaml")
    with pytest.raises(FungiSegError, match=r"config is 'own'; it must be one of .*, or the path of a .yaml file"):
        find("config", "own")


@pytest.mark.parametrize("name", ["own_folder", "voc_dino_s16", "sweep"])
def test_a_shipped_recipe_by_its_name(name: str) -> None:
    command = COMMANDS["sweep" if name == "sweep" else "build"]
    by_name = read_request(command, ["--config", name]).values
    assert by_name == read_request(command, ["--config", str(ROOT / "configs" / f"{name}.yaml")]).values
    assert by_name["data"].layout == ("voc" if "voc" in name else "folder")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("build", ["--config", "voc_dinov2_s14", "--protocol", "dip", "--data.classes", "cat,dog", "--seed", "7"]),
        ("build", ["--out", "b", f"--backbone.model_args={TINY}", f"--backbone.mean={list(HALF)}", "--skip-bad"]),
        ("evaluate", ["--bank", "b", "--protocol", "hbird-v2", "--decoder.k", "5", "--data.merge", "a=b,c"]),
        ("plan", ["--config", "own_folder", "--calibrate", "false"]),
        ("sweep", ["--out", "o", "--size", "10,null", "--k", "3"]),
        ("bank remove", ["--bank", "b", "--ids", "0001,no"]),
        ("bank compact", ["--bank", "b", "--key_dtype", "int8"]),
        ("data inspect", ["x", "--data.void", "3", "--load.workers", "0"]),
        ("segment", ["a.png", "--bank", "b", "--out", "o", "--coco.file", "r.json", "--backbone.device", "cpu"]),
    ],
)
def test_options_as_a_recipe(run: Run, tmp_path: Path, name: str, given: list[str]) -> None:  # noqa: F811
    """What is printed gives the same options again."""
    code, out, err = run(*name.split(), *given, "--print_config")
    assert (code, err) == (0, "")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(out, encoding="utf-8")
    assert list(yaml.safe_load(out)) == [name]
    positional = [given[0]] if name in ("data inspect", "segment") else []
    again = read_request(COMMANDS[name], [*positional, "--config", str(recipe)])
    assert again.values == read_request(COMMANDS[name], given).values
    assert run(*name.split(), *positional, "--config", recipe, "--print_config")[1] == out


def test_options_that_are_missing_are_left_out_of_the_recipe(run: Run) -> None:  # noqa: F811
    code, out, _ = run("bank", "append", "--print_config", "--rows", "5")
    assert code == 0
    assert "bank" not in yaml.safe_load(out)["bank append"]
    assert yaml.safe_load(out)["bank append"]["rows"] == 5


# JSON to standard output


def test_json_in_place_of_tables(run: Run, data: Path, bank: Path, tmp_path: Path) -> None:  # noqa: F811
    """To a file beside the tables, or by - alone."""
    kept = tmp_path / "deep" / "facts.json"
    code, told, _ = run("bank", "inspect", "--bank", bank, "--json", kept)
    assert (code, "rows that hold it" in told) == (0, True)
    code, printed, _ = run("bank", "inspect", "--bank", bank, "--json", "-")
    assert yaml.safe_load(printed) == yaml.safe_load(kept.read_text())
    options = ["--data.root", data, "--data.split", "val"]
    code, printed, _ = run("evaluate", "--bank", bank, *options, "--json", "-")
    assert (code, yaml.safe_load(printed)["images"]) == (0, 2)
    code, printed, _ = run("bank", "history", "--bank", bank, "--json", kept)
    assert yaml.safe_load(kept.read_text())[0]["action"] == "build"


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish"])
def test_completion_scripts(run: Run, shell: str) -> None:  # noqa: F811
    code, out, err = run("--print_completion", shell)
    assert (code, err) == (0, "")
    assert "compare-backbones" in out


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_completion_in_bash(run: Run, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "script").write_text(run("--print_completion", "bash")[1], encoding="utf-8")
    (tmp_path / "photo.jpg").touch()
    ask = """
    source ./script 2>/dev/null
    ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_fungi_seg; echo "${COMPREPLY[*]}"; }
    ask fungi-seg comp
    ask fungi-seg bank ap
    ask fungi-seg build --data.fi
    ask fungi-seg segment ph
    ask fungi-seg build --out ph
    ask fungi-seg segment --scores f
    """
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = ["compare compare-backbones", "append", "--data.file_list", "photo.jpg", "photo.jpg", "false"]
    assert done.stdout.splitlines() == lines


def test_groups_have_commands() -> None:
    assert {"bank", "data"} == GROUPS
    assert all(name.split()[0] in GROUPS for name in COMMANDS if " " in name)
