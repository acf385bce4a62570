"""`fungi-seg COMMAND`: the options of a command are derived from the signature of its function in `commands`.

Nothing heavy is imported before a command line was read and found to be in order.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from typing import TextIO

from fungi_seg import __version__
from fungi_seg.commands.options import HELP, HELP_ALL, help_of, read_request
from fungi_seg.commands.table import COMMANDS, GROUPS, Command
from fungi_seg.errors import FungiSegError, UsageError, as_usage, nearest, reason
from fungi_seg.progress import StandardError, log as progress

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
USAGE = """usage: fungi-seg COMMAND [--config RECIPE] [options]
       fungi-seg COMMAND --help        the options that people use; all of them: --help_all
       fungi-seg --version
       fungi-seg --print_completion SHELL

exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted
"""

log = logging.getLogger("fungi_seg")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 1 a failure, 2 wrong usage, 130 interrupted."""
    return _guarded(lambda: _main(list(sys.argv[1:] if arguments is None else arguments)))


def tool(function: Callable[..., None]) -> int:
    """Entry point of `tools/*.py`: the command line holds options of `function`."""
    return _guarded(lambda: _run(Command(function.__name__, function), sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    leading = [a for a in arguments[:1] if a in ("--quiet", "--verbose")]  # also before the command
    arguments = arguments[len(leading) :]
    if arguments[:1] == ["--version"]:
        print(f"fungi-seg {__version__}")
        return DONE
    if arguments[:1] in (["--print_completion"], ["--print-completion"]):
        from fungi_seg.commands.completion import completion_script

        with as_usage():
            print(completion_script(" ".join(arguments[1:])))
        return DONE
    words = 2 if arguments[:1] and arguments[0] in GROUPS else 1
    name, rest = " ".join(arguments[:words]), arguments[words - 1 : words]
    if rest in ([], ["-h"], ["--help"], ["--help_all"], ["--help-all"]):
        _list_commands(arguments[0] if words == 2 else "", sys.stdout if rest else sys.stderr)
        return DONE if rest else WRONG_USAGE
    if name not in COMMANDS:
        raise UsageError(f"no command {name!r}{_hint(name) or '; commands: ' + ', '.join(COMMANDS)}")
    return _run(COMMANDS[name], [*leading, *arguments[words:]])


def _run(command: Command, arguments: Sequence[str]) -> int:
    """Call the command's function with options from the command line, a recipe and a protocol.

    A leading `.yaml` argument is the recipe.
    """
    for word in (*HELP, *HELP_ALL):
        if word in arguments:
            print(help_of(command, everything=word in HELP_ALL), end="")
            return DONE
    if arguments and arguments[0].endswith((".yaml", ".yml")) and not arguments[0].startswith("-"):
        arguments = ["--config", *arguments]
    with as_usage():
        request = read_request(command, arguments)
    _set_up_log(request.quiet, request.verbose)
    if request.recipe is not None:
        print(request.recipe, end="")
        return DONE
    if request.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(request.threads)  # for libraries that aren't loaded yet, in all threads
        from fungi_seg.hardware import use_threads

        use_threads(request.threads)
    log.debug("fungi-seg %s: %s %s", __version__, command.name, request.values)
    command.function()(**request.values)
    return DONE


def _guarded(work: Callable[[], int]) -> int:
    """What `work` returns, or the exit code of what it raises, which goes to standard error."""
    _prepare_streams()
    _set_up_log(quiet=False, verbose=False)
    try:
        return work()
    except ArgumentError as error:
        return _failed(error, WRONG_USAGE, " ".join(str(error).split()))
    except UsageError as error:
        return _failed(error, WRONG_USAGE)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (FungiSegError, OSError) as error:
        return _failed(error, FAILED)
    except Exception as error:
        from fungi_seg.hardware import is_out_of_memory  # which imports torch

        if not is_out_of_memory(error):
            raise
        advice = "lower load.batch_size, input.size, features.side or bank.size"
        return _failed(error, FAILED, f"out of memory ({reason(error)}); {advice}")
    except KeyboardInterrupt as error:
        note = "interrupted; nothing half-written counts, and the same command goes on where it can"
        log.debug("interrupted here", exc_info=error)
        print(note, file=sys.stderr)
        return INTERRUPTED


def _failed(error: BaseException, code: int, text: str | None = None) -> int:
    log.debug("where the error comes from", exc_info=error)
    print(f"error: {error if text is None else text}", file=sys.stderr)
    return code


def _prepare_streams() -> None:
    """A terminal that has no such character, or a standard stream that isn't there, must not end the work.

    Missing streams (services, pythonw, `2>&-`) lead nowhere. They also take the numbers of the streams, so that no
    file of ours gets one, and with it what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _set_up_log(quiet: bool, verbose: bool) -> None:
    """Show what the package logs on standard error: progress, remarks and warnings; less or more of it if asked."""
    if not any(isinstance(handler, StandardError) for handler in log.handlers):
        log.addHandler(StandardError())
    log.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    progress.setLevel(logging.WARNING if quiet else logging.INFO)


def _list_commands(group: str, where: TextIO) -> None:
    print(USAGE, file=where)
    for name, command in COMMANDS.items():
        if not group or name.startswith(f"{group} "):
            print(f"  {name:18} {command.summary()}", file=where)


def _hint(name: str) -> str:
    """The command that was meant; of a group if it is called so there."""
    same = [repr(known) for known in COMMANDS if known.split()[-1] == name]
    return f"; did you mean {' or '.join(same)}?" if same else nearest(name, COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
