"""Recipe and protocol files, and configuration from plain dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fungi_seg import FungiSegError, InputConfig, cli
from fungi_seg.commands.options import expand, option_parser
from fungi_seg.commands.recipes import as_options
from fungi_seg.commands.table import SECTIONS
from fungi_seg.config import flatten, from_dict, read_yaml
from fungi_seg.evaluation.protocols import read_protocol

CONFIGS = Path(__file__).parent.parent / "configs"
NAMES = sorted(path.stem for path in (CONFIGS / "protocols").glob("*.yaml"))
RECIPES = sorted(CONFIGS.glob("*.yaml"))


def options(command: str) -> dict[str, Any]:
    """Option names of a command with a value each takes, groups left out."""
    names = {o[2:]: a for a in option_parser(cli.COMMANDS[command])._actions for o in a.option_strings}
    return {name: action for name, action in names.items() if not any(o.startswith(f"{name}.") for o in names)}


def parsed(command: str, *arguments: str) -> Any:
    """What the function of a command would be called with."""
    parser = option_parser(cli.COMMANDS[command])
    return parser.instantiate(parser.parse_args(expand(parser, cli.COMMANDS[command], list(arguments))))


def test_the_four_protocols_are_there() -> None:
    assert {"native", "hbird-v2", "fungi", "dip"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_protocol_settings_are_options(name: str) -> None:
    protocol = read_protocol(name)
    assert protocol.name == name
    build = flatten(protocol.build, options("build"), name)
    evaluation = flatten(protocol.evaluate, options("evaluate"), name)
    assert "bank.void" in build
    assert {"metric.mask_size", "metric.matching"} <= set(evaluation)
    assert ({"decoder.k", "decoder.temperature"} <= set(evaluation)) == (name != "best")
    assert evaluation.get("fitted", False) == (name == "best")


@pytest.mark.parametrize("name", NAMES)
def test_protocol_settings_arrive(name: str) -> None:
    protocol = read_protocol(name)
    for command, settings, needed in (
        ("build", protocol.build, "--out=x"),
        ("evaluate", protocol.evaluate, "--bank=x"),
    ):
        values = parsed(command, needed, f"--protocol={name}")
        for key, value in flatten(settings, options(command), name).items():
            found = values
            for field in key.split("."):
                found = getattr(found, field)
            assert (list(found) if isinstance(found, tuple) else found) == value


@pytest.mark.parametrize("name", NAMES)
def test_deviations_are_told(name: str) -> None:
    """Every switch a protocol says it departs by is one that it sets."""
    protocol = read_protocol(name)
    assert bool(protocol.deviations) == (name != "native")
    kept = flatten(protocol.build, options("build"), name) | flatten(protocol.evaluate, options("evaluate"), name)
    for line in protocol.deviations:
        switch = line.partition("=")[0]
        assert switch in kept
        assert line.partition(": ")[2]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_settings_are_options(path: Path) -> None:
    sections = read_yaml(path, SECTIONS)
    for command in cli.COMMANDS.keys() & sections.keys():
        settings = sections[command]
        flatten(settings or {}, {*options(command), "images"}, path.name)


def test_command_line_over_recipe_over_protocol(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("build:\n  protocol: hbird-v2\n  input: {size: 504}\n  bank: {size: 7}\n")
    values = parsed("build", "--out=x", "--config", str(recipe), "--bank.size", "9")
    assert values.bank.size == 9
    assert values.bank.epochs == 2
    assert values.input == InputConfig(504, keep_aspect=False)


def test_unknown_protocol() -> None:
    with pytest.raises(FungiSegError, match=r"protocol is 'naitve'; .*dip.*hbird-v2.*did you mean 'native'"):
        read_protocol("naitve")


def test_protocol_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("build:\n  bank: {void: ignore}\ndeviations:\n  - {switch: metric.absent=zero, why: because}\n")
    protocol = read_protocol(str(path))
    assert protocol.name == "mine"
    assert protocol.build == {"bank": {"void": "ignore"}}
    assert protocol.evaluate == {}
    assert protocol.deviations == ("metric.absent=zero: because",)
    with pytest.raises(FungiSegError, match=r"gone\.yaml' can't be read"):
        read_protocol(str(tmp_path / "gone.yaml"))


@pytest.mark.parametrize("deviations", ["[text]", "[{switch: a}]", "5"])
def test_malformed_deviations(tmp_path: Path, deviations: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"deviations: {deviations}\n")
    with pytest.raises(FungiSegError, match="deviations"):
        read_protocol(str(tmp_path / "mine.yaml"))


def test_unknown_section(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("evalute:\n  decoder: {k: 3}\n")
    with pytest.raises(FungiSegError, match=r"unknown section 'evalute'; did you mean 'evaluate'\?; sections: plan"):
        read_yaml(tmp_path / "r.yaml", tuple(cli.COMMANDS))


@pytest.mark.parametrize(
    ("text", "message"), [("", "must hold sections"), ("[1]", "must hold sections"), ("a: [", "can't be read")]
)
def test_files_without_sections(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(FungiSegError, match=rf"r\.yaml' {message}"):
        read_yaml(tmp_path / "r.yaml", ("build",))


def test_flatten_names_the_nearest_key() -> None:
    known = ["decoder.k", "decoder.temperature", "seed"]
    assert flatten({"decoder": {"k": 3}, "seed": 1}, known, "here") == {"decoder.k": 3, "seed": 1}
    assert flatten({"decoder.k": 3}, known, "here") == {"decoder.k": 3}
    with pytest.raises(
        FungiSegError, match=r"here has the unknown key 'decoder.temprature'; did you mean 'decoder.tem"
    ):
        flatten({"decoder": {"temprature": 1}}, known, "here")
    with pytest.raises(FungiSegError, match=r"unknown key 'decodr'"):
        flatten({"decodr": {"k": 1}}, known, "here")
    with pytest.raises(FungiSegError, match=r"here has 5 for 'decoder', which holds settings: decoder\.k, decoder"):
        flatten({"decoder": 5}, known, "here")


def test_mapping_that_is_a_value_stays_whole() -> None:
    settings = {"backbone": {"model_args": {"depth": 2, "nested": {"x": [1]}}}}
    assert flatten(settings, options("build"), "here") == {"backbone.model_args": settings["backbone"]["model_args"]}
    assert as_options(flatten(settings, options("build"), "here")) == [
        '--backbone.model_args={"depth": 2, "nested": {"x": [1]}}'
    ]


def test_mapping_that_is_a_value_arrives(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("build:\n  out: x\n  backbone: {name: own, model_args: {depth: 2, a: {b: 1}}}\n")
    values = parsed("build", "--config", str(tmp_path / "r.yaml"))
    assert values.backbone.name == "own"
    assert values.backbone.model_args == {"depth": 2, "a": {"b": 1}}


def test_values_as_options() -> None:
    values = {"a": None, "b": True, "c": [1, 2.5], "d": "text", "e": 3}
    assert as_options(values) == ["--a=null", "--b=true", "--c=[1, 2.5]", "--d=text", "--e=3"]


def refusal(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> str:
    """What `fungi-seg build` says of a recipe that it can't take."""
    (tmp_path / "r.yaml").write_text(text)
    assert cli.main(["build", "--out", str(tmp_path / "bank"), "--config", str(tmp_path / "r.yaml")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    return message


def test_recipe_with_an_unknown_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refusal(capsys, tmp_path, "build:\n  bank: {sise: 7}\n")
    assert "r.yaml" in message
    assert "'bank.sise'; did you mean 'bank.size'" in message


def test_recipe_with_an_unknown_group(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refusal(capsys, tmp_path, "build:\n  bnk: {size: 7}\n")
    assert "unknown key 'bnk'" in message


@pytest.mark.parametrize("text", ["build: [1]", "build: 5", "build: text"])
def test_recipe_with_a_section_that_is_no_mapping(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    assert "r.yaml" in refusal(capsys, tmp_path, text)


def test_protocol_with_an_unknown_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("build:\n  bank: {viod: ignore}\n")
    message = refusal(capsys, tmp_path, f"build:\n  protocol: {tmp_path / 'mine.yaml'}\n")
    assert "mine.yaml" in message
    assert "'bank.viod'; did you mean 'bank.void'" in message


@dataclass(frozen=True)
class Example:
    width: int
    sides: tuple[int, ...] = (1,)


def test_from_dict() -> None:
    assert from_dict(Example, {"width": 3, "sides": [4, 5]}, "here") == Example(3, (4, 5))
    assert from_dict(Example, {"width": 3}, "here") == Example(3)
    assert from_dict(InputConfig, {"size": [3, 4]}, "here").size == (3, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widht": 3}, r"here has the unknown key 'widht'; did you mean 'width'\?; known: width, sides"),
        ({"sides": [1]}, "here has no width"),
    ],
)
def test_from_dict_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        from_dict(Example, values, "here")


def test_from_dict_checks_the_values() -> None:
    check: Callable[[], InputConfig] = lambda: from_dict(InputConfig, {"fit": "stretch"}, "here")  # noqa: E731
    with pytest.raises(FungiSegError, match=r"input\.fit is 'stretch'"):
        check()
