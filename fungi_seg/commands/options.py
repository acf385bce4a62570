"""Command lines, recipes and protocols to the arguments of a function, derived from its signature."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from fungi_seg.commands.recipes import as_options, as_recipe
from fungi_seg.commands.table import SECTIONS, Command
from fungi_seg.config import find, flatten, read_yaml
from fungi_seg.errors import UsageError, nearest
from fungi_seg.evaluation import read_protocol

POSITIONAL = {
    "images": "image files, folders and quoted glob patterns",
    "image": "an image file",
    "folder": "a folder with images, searched through",
    "folders": "folders of features, as extract wrote them",
    "others": "folders of banks",
    "results": "reports (evaluate --json), banks, folders of predictions and COCO results: the first, and others",
    "path": "a folder or JSON file with annotated images",
    "address": "hf://user/name, hf://datasets/user/name, s3://bucket/name and others",
    "configuration": "of MMSegmentation: voc12, ade20k, or the path of a .py file",
}
POSITIONAL_KINDS: dict[Any, str | None] = {str: None, str | None: "?", list[str]: "+", list[str] | None: "*"}
GENERAL = {
    "config": "recipe whose section '{section}' gives options: a YAML file, or the name of one that is shipped",
    "threads": "threads that compute, those of PyTorch and FAISS; null is all cores",
    "print_config": "print all options as a recipe, and do nothing else",
    "quiet": "only errors, warnings and results",
    "verbose": "more messages, and where an error comes from",
}
GENERAL_KINDS: dict[str, dict[str, Any]] = {"config": {}, "threads": {"type": int | None}}
ONCE_FLAGS = {"overlays": "; --overlays.style none writes none"}
HELP, HELP_ALL = ("-h", "--help"), ("--help_all", "--help-all")
EPILOG = "Dashes and underscores are the same; --flag alone means true; a list is a,b or [a,b]; null is none."


@dataclass(frozen=True)
class Request:
    """What a command line asks for.

    Attributes:
        values: arguments of the command's function.
        quiet, verbose: how much is said.
        threads: that compute; all cores where not given.
        recipe: the options as a recipe, where that is all that is asked for.
    """

    values: dict[str, Any]
    quiet: bool
    verbose: bool
    threads: int | None = None
    recipe: str | None = None


def read_request(command: Command, arguments: Sequence[str]) -> Request:
    """What a command line, the recipe and the protocol it names ask for.

    Raises:
        FungiSegError: an unknown option or key, or a value that its configuration refuses.
        argparse.ArgumentError: a value of another type, or a required option missing.
    """
    parser = option_parser(command)
    given = expand(parser, command, list(arguments))
    names = inspect.signature(command.function()).parameters
    if _last_value(given, "print_config") == "true":
        needed = [action for action in parser._actions if action.required]
        for action in needed:
            action.required = False
        parsed = parser.parse_args(given)
        recipe = json.loads(parser.dump(parsed, format="json", skip_unset=False))
        open_ones = {action.dest for action in needed if recipe.get(action.dest) is None}
        own = {key: value for key, value in recipe.items() if key in names.keys() - POSITIONAL.keys() - open_ones}
        return Request({}, parsed.quiet, parsed.verbose, recipe=as_recipe(command.name, own))
    values = parser.instantiate(parser.parse_args(given))
    threads = values["threads"]
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; it must be at least 1; leave it out for all cores")
    used = {name: values[name] for name in names if name in values}
    return Request(used, values["quiet"], values["verbose"], threads)


def help_of(command: Command, everything: bool) -> str:
    """The command's options as text: those that people use, or all of them."""
    parser = option_parser(command)
    leaves = _leaves(parser)
    shown = {*command.common.split(), *GENERAL} if command.common and not everything else set(leaves)
    hidden = 0
    for action in parser._actions:
        name = next((o[2:] for o in action.option_strings if o.startswith("--")), None)
        if name and name not in shown and f"--{name}" not in (*HELP, *HELP_ALL):
            hidden += name in leaves
            action.help = argparse.SUPPRESS
    if hidden:
        parser.epilog = f"{hidden} more options: {parser.prog} --help_all. {EPILOG}"
    text: str = parser.format_help()
    return text


def option_parser(command: Command) -> ArgumentParser:
    """A parser of a command, with the parameters of its function as options."""
    function = command.function()
    parser = ArgumentParser(
        prog=f"fungi-seg {command.name}",
        exit_on_error=False,
        allow_abbrev=False,
        description=(function.__doc__ or "").split("\n\n    Args:")[0],
        epilog=EPILOG,
    )
    kinds = get_type_hints(function)
    positional = {argument for argument in POSITIONAL if kinds.get(argument) in POSITIONAL_KINDS}
    for argument in positional:
        parser.add_argument(argument, nargs=POSITIONAL_KINDS[kinds[argument]], help=POSITIONAL[argument])
    parser.add_function_arguments(function, skip=positional)
    section = command.settings_of or command.name
    everywhere = parser.add_argument_group("of every command")
    for name, text in GENERAL.items():
        kind = GENERAL_KINDS.get(name, {"type": bool, "default": False})
        everywhere.add_argument(f"--{name}", help=text.format(section=section), **kind)
    everywhere.add_argument("--help_all", action="store_true", help="Show all options and exit.")
    return parser


def expand(parser: ArgumentParser, command: Command, arguments: list[str]) -> list[str]:
    """All options in the order in which they count, the last one most.

    The protocol comes before what names it: before the recipe, or between the recipe and the command line.
    """
    leaves = _leaves(parser)
    plain = _normalised(arguments, parser)
    from_recipe: list[str] = []
    recipe = _last_value(plain, "config")
    if recipe:
        settings = read_yaml(find("config", recipe), SECTIONS)
        for section in dict.fromkeys((command.settings_of or command.name, command.name)):
            where = f"config {recipe!r}, section {section!r},"
            found = flatten(settings.get(section) or {}, leaves.keys() - GENERAL.keys(), where)
            empty = [name for name, value in found.items() if value is None and not _may_be_none(leaves[name])]
            if empty:
                raise UsageError(f"{where} has no value for {empty[0]!r}; give one, or leave the key out")
            from_recipe += as_options(found)
    named_here = _last_value(plain, "protocol")
    protocol = named_here or _last_value(from_recipe, "protocol")
    from_protocol: list[str] = []
    if protocol and command.protocol_of:
        settings = getattr(read_protocol(protocol), command.protocol_of)
        from_protocol = as_options(flatten(settings, leaves, f"protocol {protocol!r}"))
    return [*from_recipe, *from_protocol, *plain] if named_here else [*from_protocol, *from_recipe, *plain]


def _may_be_none(action: argparse.Action) -> bool:
    return type(None) in get_args(getattr(action, "_typehint", None))


def _leaves(parser: ArgumentParser) -> dict[str, argparse.Action]:
    """Options that take one value, by name; the groups of them, such as `data`, are left out."""
    options = {o[2:]: a for a in parser._actions for o in a.option_strings if o.startswith("--")}
    nested = {o for o in options if not o.endswith(".help")}  # a list of dataclasses has no other option beneath it
    groups = {o for o in options if any(other.startswith(f"{o}.") for other in nested)}
    apart = {"help", "help_all", "print_shtab"}
    return {o: a for o, a in options.items() if o not in groups | apart and not o.endswith(".help")}


def _normalised(arguments: list[str], parser: ArgumentParser) -> list[str]:
    """Options with underscores, flags with their value, and lists in brackets."""
    options: Mapping[str, argparse.Action] = {o[2:]: a for a in parser._actions for o in a.option_strings}
    types = {name: getattr(action, "_typehint", None) for name, action in options.items()}
    flags = {name for name, kind in types.items() if _but_none(kind) == (bool,)}
    lists = {name: kind for name, kind in types.items() if _is_list(kind)}
    plain: list[str] = []
    in_list: Any = None
    for position, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            if name not in options:
                hint = nearest("--" + name, ["--" + option for option in _leaves(parser)])
                raise UsageError(f"unknown option --{name}{hint}; {parser.prog} --help_all lists them")
            following = arguments[position + 1 : position + 2]
            parts = [option for option in _leaves(parser) if option.startswith(f"{name}.")]
            given = value if equals else "".join(following)
            if parts and (given in ("", "true", "false") or given.startswith("--")):
                raise UsageError(_stands_for(name, given, parts))
            if name in flags and not equals and following not in (["true"], ["false"]):
                equals, value = "=", "true"
            argument = f"--{name}{equals}{_bracketed(value, lists[name]) if name in lists and equals else value}"
            in_list = lists.get(name) if not equals else None
        elif in_list:
            argument, in_list = _bracketed(argument, in_list), None
        plain.append(argument)
    return plain


def _stands_for(name: str, given: str, parts: Sequence[str]) -> str:
    """What is wrong with a group of settings that is used as a flag."""
    what = f"--{name} {given}" if given in ("true", "false") else f"--{name} without a value"
    settings = ", ".join(f"--{part}" for part in parts)
    return f"{what}: it is no flag, but stands for {settings}{ONCE_FLAGS.get(name, '')}"


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
    """What an option is set to in the end, if to anything."""
    value = None
    for position, argument in enumerate(arguments):
        if argument == f"--{name}" and position + 1 < len(arguments):
            value = arguments[position + 1]
        elif argument.startswith(f"--{name}="):
            value = argument.partition("=")[2]
    return None if value == "null" else value
