"""Command lines, recipes and protocols to the arguments of a function, derived from its signature."""

from __future__ import annotations

import inspect
import json
from argparse import Action
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from fungi_seg.commands.recipes import RECIPE_SECTIONS, as_options
from fungi_seg.config import read_yaml
from fungi_seg.errors import FungiSegError, nearest
from fungi_seg.evaluation import read_protocol

POSITIONAL = {
    "images": "image files, folders and quoted glob patterns",
    "image": "an image file",
    "folders": "folders of features, as extract wrote them",
    "others": "folders of banks",
    "path": "a folder or JSON file with annotated images",
    "config": "a configuration of MMSegmentation (.py)",
}
SETTINGS_OF = {"plan": "build"}  # commands that take the settings of another one before their own


def read_options(function: Callable[..., None], arguments: Sequence[str], name: str | None = None) -> dict[str, Any]:
    """The arguments of `function` that a command line, the recipe and the protocol it names give.

    Args:
        function: what is called.
        arguments: of the command line.
        name: of the command, where it isn't that of the function.

    Raises:
        FungiSegError: an unknown option or key, or a value that its configuration refuses.
        argparse.ArgumentError: a value of another type, or a required option missing.
    """
    parser = option_parser(function, name)
    section = section_of(name or function.__name__)
    values = parser.instantiate(parser.parse_args(expand(parser, section, list(arguments))))
    names = inspect.signature(function).parameters
    return {key: value for key, value in vars(values).items() if key in names}


def option_parser(function: Callable[..., None], name: str | None = None) -> ArgumentParser:
    """A parser for the command `name`, by default that of `function`, with its parameters as options."""
    name = name or function.__name__
    parser = ArgumentParser(
        prog=f"fungi-seg {name}",
        exit_on_error=False,
        allow_abbrev=False,
        description=(function.__doc__ or "").split("\n\n    Args:")[0],
        epilog="Dashes and underscores in option names are the same; --flag alone means true; a list is a,b or [a,b].",
    )
    kinds = get_type_hints(function)
    positional = {argument for argument in POSITIONAL if kinds.get(argument) in (str, list[str])}
    for argument in positional:
        parser.add_argument(argument, nargs=None if kinds[argument] is str else "+", help=POSITIONAL[argument])
    parser.add_function_arguments(function, skip=positional)
    section = SETTINGS_OF.get(name, section_of(name))
    if section in RECIPE_SECTIONS:
        parser.add_argument("--config", help=f"recipe file (YAML) whose section '{section}' gives options")
    return parser


def section_of(command: str) -> str:
    """The recipe's section that a command reads; that of `bank append` is `append`. `data inspect` has none."""
    return command.removeprefix("bank ")


def expand(parser: ArgumentParser, command: str, arguments: list[str]) -> list[str]:
    """All options in the order in which they count, the last one most.

    The protocol comes before what names it: before the recipe, or between the recipe and the command line.
    """
    options = {o[2:]: a for a in parser._actions for o in a.option_strings if o.startswith("--")}
    nested = {o for o in options if not o.endswith(".help")}  # a list of dataclasses has no other option beneath it
    groups = {o for o in options if any(other.startswith(f"{o}.") for other in nested)}
    leaves = options.keys() - groups
    plain = _normalised(arguments, options, parser.prog)
    if {"-h", "--help"} & set(plain):
        return plain
    from_recipe: list[str] = []
    base = SETTINGS_OF.get(command, command)
    recipe = _last_value(plain, "config")
    if recipe:
        settings = read_yaml(Path(recipe), RECIPE_SECTIONS)
        for section in dict.fromkeys((base, command)):
            where = f"config {recipe!r}, section {section!r},"
            from_recipe += as_options(settings.get(section) or {}, leaves, where)
    named_here = _last_value(plain, "protocol")
    protocol = named_here or _last_value(from_recipe, "protocol")
    from_protocol: list[str] = []
    if protocol and base in ("build", "evaluate"):
        from_protocol = as_options(getattr(read_protocol(protocol), base), leaves, f"protocol {protocol!r}")
    return [*from_recipe, *from_protocol, *plain] if named_here else [*from_protocol, *from_recipe, *plain]


def _normalised(arguments: list[str], options: Mapping[str, Action], program: str) -> list[str]:
    """Options with underscores, flags with their value, and lists in brackets; `program` is named in errors."""
    types = {name: getattr(action, "_typehint", None) for name, action in options.items()}
    flags = {name for name, kind in types.items() if kind is bool}
    lists = {name: kind for name, kind in types.items() if _is_list(kind)}
    plain: list[str] = []
    in_list: Any = None
    for position, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            if name not in options:
                raise FungiSegError(
                    f"unknown option --{name}{nearest('--' + name, ['--' + o for o in options])}; "
                    f"{program} --help lists them"
                )
            following = arguments[position + 1 : position + 2]
            if name in flags and not equals and following not in (["true"], ["false"]):
                equals, value = "=", "true"
            argument = f"--{name}{equals}{_bracketed(value, lists[name]) if name in lists and equals else value}"
            in_list = lists.get(name) if not equals else None
        elif in_list:
            argument, in_list = _bracketed(argument, in_list), None
        plain.append(argument)
    return plain


def _is_list(kind: Any) -> bool:
    """Whether a type is a list or a tuple, or one of them or `None`."""
    return all(get_origin(k) in (list, tuple) for k in _but_none(kind))


def _bracketed(value: str, kind: Any) -> str:
    """`a,b` as `[a,b]`; what is bracketed already stays, and so does `null` where it may stand for a whole list.

    Texts are quoted, so that `0001` and `no` remain what they are.
    """
    if value.startswith(("[", "{")) or (value == "null" and type(None) in get_args(kind)):
        return value
    if all(get_args(k)[0] is str for k in _but_none(kind)):
        return json.dumps([item.strip() for item in value.split(",") if item.strip()], ensure_ascii=False)
    return f"[{value}]"


def _but_none(kind: Any) -> tuple[Any, ...]:
    """What a value may be beside `None`."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return tuple(k for k in kinds if k is not type(None))


def _last_value(arguments: Sequence[str], name: str) -> str | None:
    value = None
    for position, argument in enumerate(arguments):
        if argument == f"--{name}" and position + 1 < len(arguments):
            value = arguments[position + 1]
        elif argument.startswith(f"--{name}="):
            value = argument.partition("=")[2]
    return value
