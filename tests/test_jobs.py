"""Jobs in the background: followed, cancelled, one of a kind at a time, and giving way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from fungi_seg import DataError
from fungi_seg.annotating import Conflict, Job, Jobs, NotThere
from fungi_seg.progress import pausing, track

SOON = 30  # seconds until a test that waits in vain fails


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    opened = Jobs()
    yield opened
    opened.close()


class Signals:
    """Work that stops after each item until the test lets it go on."""

    def __init__(self, items: int):
        self._items = items
        self._next, self.arrived = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self) -> str:
        for _ in track(range(self._items), self._items, "counting", "sheep", show=False):
            self.arrived.release()
            assert self._next.acquire(timeout=SOON)
        return "asleep"

    def let(self, items: int = 1) -> None:
        self._next.release(items)

    def wait(self) -> None:
        assert self.arrived.acquire(timeout=SOON)


def test_a_job_from_start_to_end(jobs: Jobs) -> None:
    work = Signals(2)
    assert (jobs.get("fit"), jobs.all()) == (None, [])
    started = jobs.start("fit", work)
    assert (started.kind, started.status, started.result) == ("fit", "running", None)
    work.wait()
    assert jobs.get("fit") == Job("fit", what="counting", done=0, total=2)
    work.let()
    work.wait()
    assert jobs.get("fit") == Job("fit", what="counting", done=1, total=2)
    work.let()
    assert jobs.wait("fit") == Job("fit", "done", "counting", 2, 2, result="asleep")
    assert jobs.all() == [jobs.get("fit")]


def test_one_of_a_kind_at_a_time(jobs: Jobs) -> None:
    work = Signals(1)
    jobs.start("fit", work)
    work.wait()
    with pytest.raises(Conflict, match=r"^the job 'fit' is running; wait for its end, or cancel it$") as caught:
        jobs.start("fit", work)
    assert caught.value.reason == "busy"
    assert jobs.start("audit", lambda: 1).kind == "audit"
    assert jobs.wait("audit").result == 1
    assert [job.status for job in jobs.all()] == ["running", "done"]
    work.let()
    jobs.wait("fit")
    jobs.start("fit", lambda: 2)
    assert jobs.wait("fit") == Job("fit", "done", result=2)


def test_a_cancelled_job_ends_at_its_next_step(jobs: Jobs) -> None:
    work = Signals(5)
    jobs.start("fit", work)
    work.wait()
    assert jobs.cancel("fit").status == "running"
    work.let()
    assert jobs.wait("fit") == Job("fit", "cancelled", "counting", 1, 5)
    assert jobs.cancel("fit").status == "cancelled"


def test_a_job_that_is_done_stays_done(jobs: Jobs) -> None:
    jobs.start("fit", lambda: 1)
    jobs.wait("fit")
    assert jobs.cancel("fit") == Job("fit", "done", result=1)


@pytest.mark.parametrize("ask", [Jobs.cancel, Jobs.wait])
def test_a_job_that_there_was_not(jobs: Jobs, ask: Callable[[Jobs, str], Job]) -> None:
    with pytest.raises(NotThere, match=r"^there is no job 'fit'; start it first$"):
        ask(jobs, "fit")


def test_why_a_job_failed(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    def known() -> None:
        raise DataError("photo.png: is torn")

    def unknown() -> None:
        raise ValueError("a\nb")

    jobs.start("known", known)
    assert jobs.wait("known") == Job("known", "failed", message="photo.png: is torn")
    assert not caplog.records
    jobs.start("unknown", unknown)
    assert jobs.wait("unknown") == Job(
        "unknown", "failed", message="ended by an unforeseen error (ValueError: a); see the log"
    )
    assert "the job 'unknown' failed" in caplog.text
    assert "Traceback" in caplog.text


class Turnstile:
    """A gate that a test opens and shuts, and that tells when a job stands before it."""

    def __init__(self) -> None:
        self.open, self.asked = threading.Event(), threading.Semaphore(0)

    def wait(self) -> None:
        self.asked.release()
        assert self.open.wait(SOON)


def test_jobs_give_way_at_each_step_and_within_long_ones() -> None:
    gate, done = Turnstile(), list[int]()
    jobs = Jobs(gate)

    def work() -> None:
        for item in track(range(2), 2, "counting", show=False):
            done.extend(pausing([item]))

    jobs.start("fit", work)
    assert gate.asked.acquire(timeout=SOON)
    assert not done
    gate.open.set()
    assert jobs.wait("fit").status == "done"
    assert done == [0, 1]
    assert [gate.asked.acquire(blocking=False) for _ in range(5)] == [True] * 4 + [False]  # 3 steps, 2 within them


def test_a_job_before_a_gate_can_be_cancelled() -> None:
    gate, done = Turnstile(), list[int]()
    jobs = Jobs(gate)
    jobs.start("fit", lambda: done.extend(track([1], 1, "counting", show=False)))
    assert gate.asked.acquire(timeout=SOON)
    jobs.cancel("fit")
    gate.open.set()
    assert jobs.wait("fit").status == "cancelled"
    assert not done


def test_closing_ends_all_jobs() -> None:
    jobs, works = Jobs(), [Signals(5), Signals(5)]
    for name, work in zip(("fit", "audit"), works, strict=True):
        jobs.start(name, work)
        work.wait()
    for work in works:
        work.let(5)  # whichever step they have come to
    before = threading.active_count()
    jobs.close()
    assert threading.active_count() <= before
    assert {job.status for job in jobs.all()} <= {"cancelled", "done"}
    with pytest.raises(Conflict, match="can't be started: this program is ending"):
        jobs.start("fit", lambda: 1)
