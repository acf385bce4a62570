"""Completion of commands, options and file names for shells."""

from __future__ import annotations

import shtab
from jsonargparse import ArgumentParser

from fungi_seg.commands.options import option_parser
from fungi_seg.commands.table import COMMANDS, GROUPS, Command
from fungi_seg.errors import check_choice


def completion_script(shell: str) -> str:
    """What a shell reads to complete `fungi-seg`.

    Raises:
        FungiSegError: no such shell.
    """
    check_choice("print_completion", shell, shtab.SUPPORTED_SHELLS)
    parser = ArgumentParser(prog="fungi-seg")
    top = parser.add_subcommands(required=False)
    within = {"": top}
    for group in sorted(GROUPS):
        inner = ArgumentParser(description=f"Commands of {group}.")
        top.add_subcommand(group, inner)
        within[group] = inner.add_subcommands(required=False)
    for name, command in COMMANDS.items():
        group, _, own = name.rpartition(" ")
        within[group].add_subcommand(own, _completed(command))
    script: str = parser.get_completion_script(f"shtab-{shell}")
    return script


def _completed(command: Command) -> ArgumentParser:
    """The command's parser; what isn't a flag or a number may be the name of a file."""
    parser = option_parser(command)
    for action in parser._actions:
        if "str" in str(getattr(action, "_typehint", "")) or not action.option_strings:
            action.complete = shtab.FILE
    return parser
