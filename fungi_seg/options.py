"""Command lines, recipes and protocols to the arguments of a function, derived from its signature."""

from __future__ import annotations

import inspect
from argparse import Action
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

from jsonargparse import ArgumentParser

from fungi_seg.errors import FungiSegError, nearest
from fungi_seg.recipes import RECIPE_SECTIONS, as_options, read_protocol, read_yaml

POSITIONAL = {
    "images": "image files, folders and quoted glob patterns",
    "folders": "folders of features, as extract wrote them",
}


def read_options(function: Callable[..., None], arguments: Sequence[str]) -> dict[str, Any]:
    """The arguments of `function` that a command line, the recipe and the protocol it names give.

    Raises:
        FungiSegError: an unknown option or key, or a value that its configuration refuses.
        argparse.ArgumentError: a value of another type, or a required option missing.
    """
    parser = option_parser(function)
    values = parser.instantiate(parser.parse_args(expand(parser, function.__name__, list(arguments))))
    names = inspect.signature(function).parameters
    return {key: value for key, value in vars(values).items() if key in names}


def option_parser(function: Callable[..., None]) -> ArgumentParser:
    """A parser whose options are the parameters of `function`."""
    parser = ArgumentParser(
        prog=f"fungi-seg {function.__name__}",
        exit_on_error=False,
        allow_abbrev=False,
        description=(function.__doc__ or "").split("\n\n    Args:")[0],
        epilog="Dashes and underscores in option names are the same; --flag alone means true; a list is a,b or [a,b].",
    )
    positional = POSITIONAL.keys() & set(inspect.signature(function).parameters)
    for name in positional:
        parser.add_argument(name, nargs="+", help=POSITIONAL[name])
    parser.add_function_arguments(function, skip=positional)
    parser.add_argument("--config", help=f"recipe file (YAML) whose section '{function.__name__}' gives options")
    return parser


def expand(parser: ArgumentParser, command: str, arguments: list[str]) -> list[str]:
    """All options in the order in which they count, the last one most.

    The protocol comes before what names it: before the recipe, or between the recipe and the command line.
    """
    options = {o[2:]: a for a in parser._actions for o in a.option_strings if o.startswith("--")}
    nested = {o for o in options if not o.endswith(".help")}  # a list of dataclasses has no other option beneath it
    groups = {o for o in options if any(other.startswith(f"{o}.") for other in nested)}
    leaves = options.keys() - groups
    plain = _normalised(arguments, options, command)
    if {"-h", "--help"} & set(plain):
        return plain
    from_recipe = []
    recipe = _last_value(plain, "config")
    if recipe:
        section = read_yaml(Path(recipe), RECIPE_SECTIONS).get(command) or {}
        from_recipe = as_options(section, leaves, f"config {recipe!r}, section {command!r},")
    named_here = _last_value(plain, "protocol")
    protocol = named_here or _last_value(from_recipe, "protocol")
    from_protocol: list[str] = []
    if protocol and command in ("build", "evaluate"):
        from_protocol = as_options(getattr(read_protocol(protocol), command), leaves, f"protocol {protocol!r}")
    return [*from_recipe, *from_protocol, *plain] if named_here else [*from_protocol, *from_recipe, *plain]


def _normalised(arguments: list[str], options: Mapping[str, Action], command: str) -> list[str]:
    """Options with underscores, flags with their value, and lists in brackets."""
    types = {name: getattr(action, "_typehint", None) for name, action in options.items()}
    flags = {name for name, kind in types.items() if kind is bool}
    lists = {name for name, kind in types.items() if get_origin(kind) in (list, tuple)}
    plain: list[str] = []
    in_list = False
    for position, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            if name not in options:
                raise FungiSegError(
                    f"unknown option --{name}{nearest('--' + name, ['--' + o for o in options])}; "
                    f"fungi-seg {command} --help lists them"
                )
            following = arguments[position + 1 : position + 2]
            if name in flags and not equals and following not in (["true"], ["false"]):
                equals, value = "=", "true"
            argument = f"--{name}{equals}{_bracketed(value) if name in lists and equals else value}"
            in_list = name in lists and not equals
        elif in_list:
            argument, in_list = _bracketed(argument), False
        plain.append(argument)
    return plain


def _bracketed(value: str) -> str:
    """`a,b` as `[a,b]`; what is bracketed already stays."""
    return value if value.startswith(("[", "{")) else f"[{value}]"


def _last_value(arguments: Sequence[str], name: str) -> str | None:
    value = None
    for position, argument in enumerate(arguments):
        if argument == f"--{name}" and position + 1 < len(arguments):
            value = arguments[position + 1]
        elif argument.startswith(f"--{name}="):
            value = argument.partition("=")[2]
    return value
