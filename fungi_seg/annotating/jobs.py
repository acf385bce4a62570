"""Work in the background: each job in a thread of its own, one of a kind at a time, followed and cancelled."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fungi_seg.annotating.faults import Conflict, NotThere
from fungi_seg.errors import Cancelled, FungiSegError, reason
from fungi_seg.progress import Step, following

log = logging.getLogger(__name__)

RUNNING, DONE, FAILED, CANCELLED = "running", "done", "failed", "cancelled"


class Gate(Protocol):
    """What jobs give way to."""

    def wait(self) -> object:
        """Return once nobody waits for an answer."""


@dataclass(frozen=True)
class Job:
    """A job as it is now.

    Attributes:
        kind: what it is for.
        status: `running`, `done`, `failed` or `cancelled`.
        what: is being done, or was done last.
        done: of `total`; that is none before the first step.
        message: why it failed.
        result: of a job that is done.
    """

    kind: str
    status: str = RUNNING
    what: str = ""
    done: int = 0
    total: int | None = None
    message: str = ""
    result: Any = None


class Jobs:
    """Jobs by their kind; the last one of each is remembered.

    Work is followed by its steps (`fungi_seg.progress`). At each it is held up by the gate, and ended if that was asked
    for, so it mustn't hold what others wait for, such as the lock of a bank, from one step to the next.

    Args:
        gate: asked at each step; it is told of no end, so it mustn't wait for a job.
    """

    def __init__(self, gate: Gate | None = None):
        self._gate = gate
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        self._closed = False

    def start(self, kind: str, work: Callable[[], Any]) -> Job:
        """Begin some work.

        Raises:
            Conflict: a job of this kind is running, or all were closed.
        """
        with self._lock:
            last = self._running.get(kind)
            if self._closed:
                raise Conflict(f"the job {kind!r} can't be started: this program is ending", "closed")
            if last and last.job.status == RUNNING:
                raise Conflict(f"the job {kind!r} is running; wait for its end, or cancel it", "busy")
            running = self._running[kind] = _Running(Job(kind), work, self._gate)
            running.thread.start()
            return running.job

    def cancel(self, kind: str) -> Job:
        """Ask a job to end at its next step; one that has ended stays as it is.

        Raises:
            NotThere: there was no job of this kind.
        """
        running = self._of(kind)
        running.cancelled.set()
        return running.job

    def wait(self, kind: str) -> Job:
        """The job once it has ended.

        Raises:
            NotThere: there was no job of this kind.
        """
        running = self._of(kind)
        running.thread.join()
        return running.job

    def get(self, kind: str) -> Job | None:
        """The last job of a kind, if there was one."""
        with self._lock:
            running = self._running.get(kind)
        return running.job if running else None

    def all(self) -> list[Job]:
        """The last job of each kind, in the order in which kinds were first started."""
        with self._lock:
            return [running.job for running in self._running.values()]

    def close(self) -> None:
        """Cancel all jobs and wait for their end; no other one begins."""
        with self._lock:
            self._closed = True
            left = list(self._running.values())
        for running in left:
            running.cancelled.set()
        for running in left:
            running.thread.join()

    def _of(self, kind: str) -> _Running:
        with self._lock:
            running = self._running.get(kind)
        if not running:
            raise NotThere(f"there is no job {kind!r}; start it first")
        return running


class _Running:
    """A job and its thread. Only that thread replaces `job`."""

    def __init__(self, job: Job, work: Callable[[], Any], gate: Gate | None):
        self.job, self._work, self._gate = job, work, gate
        self.cancelled = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"job {job.kind}", daemon=True)

    def _run(self) -> None:
        try:
            with following(self._at):
                result = self._work()
        except Cancelled:
            end = replace(self.job, status=CANCELLED)
        except FungiSegError as error:
            end = replace(self.job, status=FAILED, message=str(error))
        except BaseException as error:  # whatever it is, nobody else would tell
            log.exception("the job %r failed", self.job.kind)
            end = replace(
                self.job, status=FAILED, message=f"ended by an unforeseen error ({reason(error)}); see the log"
            )
        else:
            end = replace(self.job, status=DONE, result=result)
        self.job = end

    def _at(self, step: Step) -> None:
        self.job = replace(self.job, what=step.what, done=step.done, total=step.total)
        self._go_on()
        if self._gate:
            self._gate.wait()
            self._go_on()

    def _go_on(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled(f"the job {self.job.kind!r} was cancelled")
