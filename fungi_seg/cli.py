"""`fungi-seg COMMAND`: the options of a command are derived from the signature of its function in `commands`."""

from __future__ import annotations

import io
import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence

import torch

from fungi_seg.commands.classification import classify, extract
from fungi_seg.commands.segmentation import build, demo, evaluate, inspect, segment
from fungi_seg.errors import FungiSegError, nearest
from fungi_seg.options import read_options

INTERRUPTED = 130

COMMANDS: dict[str, Callable[..., None]] = {
    f.__name__: f for f in (build, segment, evaluate, inspect, extract, classify, demo)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 well, 1 bad input, 2 unknown options, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: fungi-seg COMMAND [--config RECIPE.yaml] [options]; for the options: fungi-seg COMMAND --help\n")
        for name, function in COMMANDS.items():
            print(f"  {name:10} {(function.__doc__ or '').splitlines()[0]}")
        return 0 if arguments else 2
    if arguments[0] not in COMMANDS:
        hint = nearest(arguments[0], COMMANDS)
        print(f"error: no command {arguments[0]!r}{hint}; commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return run(COMMANDS[arguments[0]], arguments[1:])


def run(function: Callable[..., None], arguments: Sequence[str]) -> int:
    """Call `function` with options from the command line, a recipe and a protocol; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character must not end the work
            stream.reconfigure(errors="replace")
    try:
        function(**read_options(function, arguments))
    except ArgumentError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (MemoryError, torch.cuda.OutOfMemoryError) as error:
        print(
            f"error: out of memory ({error}); lower load.batch_size, input.size, features.side or bank.size",
            file=sys.stderr,
        )
        return 1
    except (FungiSegError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing half-written is left", file=sys.stderr)
        return INTERRUPTED
    return 0


def tool(function: Callable[..., None]) -> int:
    """Entry point of `tools/*.py`: a leading `.yaml` argument is the recipe, the rest are options of `function`."""
    arguments = sys.argv[1:]
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        arguments = ["--config", *arguments]
    return run(function, arguments)


if __name__ == "__main__":
    sys.exit(main())
