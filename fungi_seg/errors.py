"""Errors a user can meet. Each message names the argument, the value received, the rule and the way out."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

_ADDRESSES: dict[str, str] = {}  # by the folder of this machine that holds a copy of what lies there


class FungiSegError(Exception):
    """Base of every error this package raises on purpose; `as_given` says how it calls places."""

    def __init__(self, *args: object):
        super().__init__(*(as_given(arg) if isinstance(arg, str) else arg for arg in args))


class UsageError(FungiSegError):
    """What is asked for can't be meant so: options that exclude each other, or a value that can't be used."""


class DataError(FungiSegError):
    """An image, a mask or a data set that can't be used as it is; `--skip-bad` skips single ones."""


class BankError(FungiSegError):
    """A memory bank that is missing, damaged, or made for something else."""


class StoreError(FungiSegError):
    """An object store or a hub that can't be reached, or refuses."""


class Cancelled(FungiSegError):
    """Work that was ended on request before it was done."""


class MissingExtra(FungiSegError, ImportError):
    """Packages of an extra that aren't installed."""

    def __init__(self, extra: str, error: ImportError):
        super().__init__(
            f"{error.name or 'a package'} can't be imported ({error}); it comes with an extra of this package: "
            f'pip install "fungi-seg[{extra}]"'
        )


def copy_of(folder: str, address: str) -> None:
    """Remember that a folder of this machine is a copy of what lies at an address."""
    _ADDRESSES[folder] = address


def as_given(text: object) -> str:
    """A text with the addresses that the user knows in the place of folders that hold copies of them.

    What lies in such a folder alone, a draft, keeps its name.
    """
    found = str(text)
    for folder, address in _ADDRESSES.items():
        if folder in found:
            found = address.join(re.split(re.escape(folder) + r"(?!/\.)", found))
    return found


@contextmanager
def as_usage() -> Iterator[None]:
    """Settings that are refused inside were asked for by the user, which is wrong usage."""
    try:
        yield
    except FungiSegError as error:
        raise UsageError(str(error)) from error


def nearest(word: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the choice closest to `word`, or nothing if none is close."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_choice(argument: str, value: str, choices: Iterable[str]) -> None:
    """Raise unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise FungiSegError(f"{argument} is {value!r}; it must be one of {', '.join(choices)}{nearest(value, choices)}")


def check_unused(config: object, room: str, names: Iterable[str], why: str, way_out: str) -> None:
    """Raise if any of the fields `names` of a dataclass isn't the default, although `why` leaves it without effect."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    for name in names:
        value = getattr(config, name)
        if value != defaults[name]:
            raise FungiSegError(f"{room}{name} is {value!r}, but {why}, so that it changes nothing; {way_out}")


def reason(error: BaseException) -> str:
    """What another library's error says, in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def where_lists_differ(first: Sequence[str], other: Sequence[str], names: tuple[str, str] = ("", "")) -> str:
    """The places at which two lists of classes differ, one to a line; `names` say whose they are."""
    pairs = enumerate(zip(first, other, strict=False))
    one, two = (f"{name} " if name else "" for name in names)
    apart = [f"{place}: {one}{a!r}, {two}{b!r}" for place, (a, b) in pairs if a != b]
    return listing(apart) or "  (one list is longer)"


def listing(items: Iterable[object], limit: int = 10) -> str:
    """Items one to a line, the first `limit` of them and a count of the rest."""
    items = list(items)
    lines = [f"  {item}" for item in items[:limit]]
    if len(items) > limit:
        lines.append(f"  … and {len(items) - limit} more")
    return "\n".join(lines)
