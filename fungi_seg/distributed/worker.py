"""What runs on the machines of a cluster: one worker, which does units of work one after another."""

from __future__ import annotations

import logging
import os
import pickle
import platform
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

from fungi_seg.errors import BankError, DataError, FungiSegError, reason
from fungi_seg.hardware import use_threads


class Job(Protocol):
    """Work of which there are many units; it is sent to each worker once, and loads there what it needs."""

    def open(self) -> Callable[[Any], Any]:
        """What does a unit of it; called once a worker."""
        ...


@dataclass(frozen=True)
class Done:
    """What came of a unit.

    Attributes:
        number: of the unit.
        result: what the job gave for it; nothing where it failed.
        error: what was raised, if it is an error of this package's.
        failure: what was raised otherwise, in a line.
        trace: where, as Python prints it.
        host: the machine.
        seconds: that it took.
        warnings: that were logged.
    """

    number: int
    result: Any = None
    error: FungiSegError | None = None
    failure: str = ""
    trace: str = ""
    host: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Order:
    """What a worker must know before its first unit.

    Attributes:
        job: the work.
        threads: that compute.
        folder: where the command was called, to which relative paths belong.
    """

    job: Job
    threads: int
    folder: str = field(default_factory=os.getcwd)


class Worker:
    """Does units; what is wrong comes back as a result, so that Ray tries again only what was lost.

    Args:
        order: a pickled `Order`.
    """

    def __init__(self, order: bytes):
        self._order = order
        self._work: Callable[[Any], Any] | None = None

    def __call__(self, units: dict[str, Any]) -> dict[str, list[bytes]]:
        """Do units: `number` and `unit`, pickled, of each; gives `done` of each, a pickled `Done`."""
        pairs = zip(units["number"], units["unit"], strict=True)
        return {"done": [pickle.dumps(self._done(int(number), pickle.loads(unit))) for number, unit in pairs]}

    def _done(self, number: int, unit: Any) -> Done:
        host, start, said = platform.node(), perf_counter(), list[str]()
        try:
            with _warnings(said):
                if self._work is None:
                    self._work = self._opened()
                result = self._work(unit)
        except FungiSegError as error:
            return Done(number, error=_sendable(error), trace=traceback.format_exc(), host=host)
        except Exception as error:
            return Done(number, failure=reason(error), trace=traceback.format_exc(), host=host)
        return Done(number, result, host=host, seconds=perf_counter() - start, warnings=tuple(said))

    def _opened(self) -> Callable[[Any], Any]:
        order: Order = pickle.loads(self._order)
        with suppress(OSError):  # a machine that has no such folder is told by the first relative path
            os.chdir(order.folder)
        use_threads(order.threads)
        return order.job.open()


def _sendable(error: FungiSegError) -> FungiSegError:
    """The error without what it came from; of a kind that is made of a message alone."""
    kind = next(kind for kind in (DataError, BankError, FungiSegError) if isinstance(error, kind))
    return kind(str(error))


@contextmanager
def _warnings(said: list[str]) -> Iterator[None]:
    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    kept, log = Kept(logging.WARNING), logging.getLogger("fungi_seg")
    log.addHandler(kept)
    try:
        yield
    finally:
        log.removeHandler(kept)
