"""Background jobs: legal moves, stop, resume, failure, and that nobody is left behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workbench.jobs import STATES, IllegalMoveError, Job, Note, Snapshot


class Counter:
    """Yields 0, 1, 2, ...; remembers between resumptions where it was; each step waits for ``gate``."""

    def __init__(self, n: int = 6, fail_at: int | None = None) -> None:
        self.n, self.fail_at, self.at = n, fail_at, 0
        self.gate = threading.Semaphore(0)
        self.starts: list[bool] = []
        self.threads = 0

    def __call__(self, stop: threading.Event, resume: bool) -> Counter:
        self.stop = stop
        self.starts.append(resume)
        return self

    def run(self) -> Iterator[Any]:
        self.threads = torch.get_num_threads()
        while self.at < self.n and not self.stop.is_set():
            while not self.gate.acquire(timeout=0.01):
                if self.stop.is_set():
                    return
            if self.at == self.fail_at:
                self.fail_at = None
                raise ZeroDivisionError("the third wheel")
            self.at += 1
            yield self.at

    def result(self) -> Any:
        return SimpleNamespace(stopped=self.at < self.n, at=self.at)


def wait(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def open_gate(work: Counter, n: int) -> None:
    for _ in range(n):
        work.gate.release()


def test_runs_to_the_end_and_the_last_snapshot_has_everything() -> None:
    work = Counter()
    job = Job(work, interval=0.01)
    seen: list[Snapshot] = []
    job.observe(lambda change: seen.append(change["new"]), "snapshot")
    assert job.state == "idle" and job.snapshot == Snapshot()
    open_gate(work, 6)
    job.start()
    assert job.join(10)
    assert job.state == "done" == job.snapshot.state
    assert job.snapshot.events == (1, 2, 3, 4, 5, 6) and job.snapshot.error is None and job.snapshot.seconds > 0
    assert job.result().at == 6
    counts = [len(s.events) for s in seen]
    assert counts == sorted(counts) and seen[-1].state == "done"
    assert {s.state for s in seen} <= set(STATES)


def test_observers_hear_in_a_background_thread_and_far_less_often_than_there_are_events() -> None:
    work = Counter(n=3000)
    job = Job(work, interval=0.05)
    heard: list[str] = []
    job.observe(lambda change: heard.append(threading.current_thread().name), "snapshot")
    open_gate(work, 3000)
    started = time.monotonic()
    job.start()
    job.join(30)
    assert len(job.snapshot.events) == 3000
    assert 1 <= len(heard) <= 4 + (time.monotonic() - started) / 0.05
    assert threading.current_thread().name not in heard


def test_stop_then_resume_continues_and_keeps_the_events() -> None:
    work = Counter()
    job = Job(work, interval=0.01)
    job.start()
    open_gate(work, 2)
    wait(lambda: work.at == 2)
    job.stop()
    job.stop()  # twice is once
    assert job.join(10) and job.state == "stopped" and job.result().stopped
    assert job.snapshot.state == "stopped" and job.snapshot.events == (1, 2)
    open_gate(work, 4)
    job.resume()
    assert job.join(10) and job.state == "done" and job.snapshot.events == (1, 2, 3, 4, 5, 6)
    assert work.starts == [False, True]


def test_failure_is_kept_shown_and_raised_again_and_can_be_resumed() -> None:
    work = Counter(fail_at=2)
    job = Job(work, interval=0.01)
    open_gate(work, 10)
    job.start()
    job.join(10)
    assert job.state == "failed" and isinstance(job.snapshot.error, ZeroDivisionError)
    assert "the third wheel" in job.snapshot.trace and "in run" in job.snapshot.trace
    with pytest.raises(ZeroDivisionError, match="third wheel"):
        job.result()
    job.resume()
    job.join(10)
    assert job.state == "done" and job.snapshot.error is None and job.snapshot.events == (1, 2, 3, 4, 5, 6)


def test_failure_while_the_work_is_made() -> None:
    def broken(stop: threading.Event, resume: bool) -> Counter:
        raise FileNotFoundError("no data folder")

    job = Job(broken)
    job.start()
    job.join(10)
    assert job.state == "failed"
    with pytest.raises(FileNotFoundError):
        job.result()


def test_illegal_moves_name_the_state() -> None:
    work = Counter()
    job = Job(work, interval=0.01)
    for move in (job.stop, job.resume):
        with pytest.raises(IllegalMoveError, match="idle"):
            move()
    with pytest.raises(IllegalMoveError, match="idle has no result"):
        job.result()
    job.start()
    for move in (job.start, job.resume):
        with pytest.raises(IllegalMoveError, match="running"):
            move()
    with pytest.raises(IllegalMoveError, match="running"):
        job.result()
    job.stop()
    job.join(10)
    with pytest.raises(IllegalMoveError, match="stopped: resume it"):
        job.start()
    open_gate(work, 6)
    job.resume()
    job.join(10)
    for move in (job.start, job.stop, job.resume):
        with pytest.raises(IllegalMoveError, match="done"):
            move()


def test_many_starts_at_once_start_one() -> None:
    work = Counter()
    job = Job(work)
    refused: list[BaseException] = []

    def press() -> None:
        try:
            job.start()
        except IllegalMoveError as error:
            refused.append(error)

    presses = [threading.Thread(target=press) for _ in range(8)]
    for t in presses:
        t.start()
    for t in presses:
        t.join()
    open_gate(work, 6)
    job.join(10)
    assert len(refused) == 7 and work.starts == [False]


def test_work_that_ends_early_by_itself_is_stopped() -> None:
    work = Counter()
    work.result = lambda: SimpleNamespace(stopped=True)
    open_gate(work, 6)
    job = Job(work)
    job.start()
    job.join(10)
    assert job.state == "stopped"


def test_a_forgotten_job_ends_its_threads() -> None:
    work = Counter()
    job = Job(work, interval=0.01)
    job.start()
    threads = job._threads
    wait(lambda: work.threads > 0)
    del job
    gc.collect()
    for t in threads:
        t.join(10)
    assert not any(t.is_alive() for t in threads) and work.at == 0


def test_close_stops_and_forbids_another_start() -> None:
    work = Counter()
    job = Job(work, interval=0.01)
    job.start()
    job.close()
    assert job.join(10) and job.state == "stopped"
    with pytest.raises(IllegalMoveError, match="closed"):
        job.resume()


def in_a_new_thread(call: Any) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def test_jobs_compute_with_one_torch_thread_and_leave_the_others_alone() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        first, second = Counter(), Counter()
        jobs = [Job(first), Job(second)]
        for job in jobs:
            job.start()
        wait(lambda: first.threads and second.threads)
        assert first.threads == second.threads == 1 and torch.get_num_threads() == 3
        for job in jobs:
            job.stop()
            job.join(10)
        assert torch.get_num_threads() == 3 and in_a_new_thread(torch.get_num_threads) == 3
    finally:
        torch.set_num_threads(before)


def test_an_observer_that_raises_does_not_silence_the_news() -> None:
    work = Counter()
    job = Job(work, interval=0.01)
    heard: list[int] = []

    def observer(change: Any) -> None:
        heard.append(len(change["new"].events))
        raise RuntimeError("paint spilt")

    job.observe(observer, "snapshot")
    open_gate(work, 6)
    job.start()
    job.join(10)
    assert heard[-1] == 6 and job.state == "done" and str(job.observer_error) == "paint spilt"


def test_bad_interval_and_note() -> None:
    with pytest.raises(ValueError, match="interval"):
        Job(Counter(), interval=0)
    assert Note("reading").text == "reading"
