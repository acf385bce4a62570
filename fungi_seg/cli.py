"""`fungi-seg COMMAND`: the options of a command are derived from the signature of its function in `commands`."""

from __future__ import annotations

import io
import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence

from fungi_seg.commands import bank as bank_commands, data as data_commands
from fungi_seg.commands.auditing import audit
from fungi_seg.commands.classification import classify, extract
from fungi_seg.commands.explaining import explain
from fungi_seg.commands.options import read_options
from fungi_seg.commands.planning import plan
from fungi_seg.commands.segmentation import build, demo, evaluate, inspect, segment
from fungi_seg.errors import FungiSegError, nearest, reason
from fungi_seg.hardware import is_out_of_memory

INTERRUPTED = 130

COMMANDS: dict[str, Callable[..., None]] = {
    f.__name__: f for f in (plan, build, segment, evaluate, inspect, explain, extract, classify, demo)
}

BANK_COMMANDS: dict[str, Callable[..., None]] = {
    f"bank {f.__name__.rstrip('_')}": f
    for f in (
        bank_commands.append,
        bank_commands.remove,
        bank_commands.replace,
        bank_commands.relabel,
        bank_commands.merge,
        bank_commands.compact,
        bank_commands.index,
        audit,
        bank_commands.verify,
        bank_commands.history,
        bank_commands.export,
        bank_commands.import_,
    )
}
DATA_COMMANDS: dict[str, Callable[..., None]] = {"data inspect": data_commands.inspect}

GROUPS = {"bank": BANK_COMMANDS, "data": DATA_COMMANDS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 well, 1 bad input, 2 unknown options, 130 interrupted."""
    _provide_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    group = GROUPS.get(" ".join(arguments[:1]))
    commands = COMMANDS | BANK_COMMANDS | DATA_COMMANDS
    words = 2 if group else 1
    name = " ".join(arguments[:words])
    if arguments[words - 1 : words] in ([], ["-h"], ["--help"]):
        print("usage: fungi-seg COMMAND [--config RECIPE.yaml] [options]; for the options: fungi-seg COMMAND --help\n")
        for command, function in (group or commands).items():
            print(f"  {command:14} {(function.__doc__ or '').splitlines()[0]}")
        return 0 if arguments[-1:] in (["-h"], ["--help"]) else 2
    if name not in commands:
        hint = nearest(name, commands)
        print(f"error: no command {name!r}{hint}; commands: {', '.join(commands)}", file=sys.stderr)
        return 2
    return run(commands[name], arguments[words:], name)


def run(function: Callable[..., None], arguments: Sequence[str], name: str | None = None) -> int:
    """Call `function` with options from the command line, a recipe and a protocol; returns the exit code.

    A leading `.yaml` argument is the recipe. `name` is that of the command, where it isn't the function's.
    """
    if arguments and arguments[0].endswith((".yaml", ".yml")) and not arguments[0].startswith("-"):
        arguments = ["--config", *arguments]
    _provide_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character must not end the work
            stream.reconfigure(errors="replace")
    try:
        function(**read_options(function, arguments, name))
    except ArgumentError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted; nothing half-written counts, and the same command goes on where it can", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, FungiSegError | OSError):
            told = str(error)
        elif is_out_of_memory(error):
            told = f"out of memory ({reason(error)}); lower load.batch_size, input.size, features.side or bank.size"
        else:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 1
    return 0


def _provide_streams() -> None:
    """Streams that lead nowhere, in place of those that the process lacks: services, pythonw, `2>&-`.

    They also take the numbers of the streams, lest a file of ours get one, and what libraries print to it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def tool(function: Callable[..., None]) -> int:
    """Entry point of `tools/*.py`: the command line holds options of `function`."""
    return run(function, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
