"""Background training: a job drains a generator of events in a thread; a second thread tells the panel, at most ten
times a second.

States and the only legal moves::

    idle -> running -> stopping -> stopped        stopped -> running   (resume)
               |          |------> done           failed  -> running   (resume)
               |-> done   |------> failed
               |-> failed

Threads never print or display: they set traits. A job whose owner is gone stops its thread by itself.
"""

from __future__ import annotations

import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import traitlets as t

STATES = ("idle", "running", "stopping", "stopped", "failed", "done")
_MOVES = {
    "idle": ("running",),
    "running": ("stopping", "done", "failed"),
    "stopping": ("stopped", "done", "failed"),
    "stopped": ("running",),
    "failed": ("running",),
    "done": (),
}


class IllegalMoveError(RuntimeError):
    """A job was asked for something its state does not allow; the message names the state."""


@dataclass(frozen=True)
class Note:
    """An event in words: what is being done while there are no steps yet."""

    text: str


class Work(Protocol):
    """What a job runs, such as :class:`kdcore.distiller.Distiller`."""

    def run(self) -> Iterator[Any]: ...

    def result(self) -> Any: ...


@dataclass(frozen=True)
class Snapshot:
    """The newest news of a job, replaced as a whole.

    Attributes:
        state: one of :data:`STATES`.
        events: everything the work yielded so far, oldest first (a copy; over all resumptions).
        error: what stopped it, or ``None``; trace: its traceback as text.
        seconds: time spent running, over all resumptions.
    """

    state: str = "idle"
    events: tuple[Any, ...] = ()
    error: BaseException | None = None
    trace: str = ""
    seconds: float = 0.0


class _Core:
    """What the threads share; it does not know the job, so that a forgotten job can be collected."""

    def __init__(self, make: Callable[[threading.Event, bool], Work]) -> None:
        self.make = make
        self.lock = threading.RLock()
        self.stop = threading.Event()
        self.wake = threading.Event()
        self.state = "idle"
        self.events: list[Any] = []
        self.error: BaseException | None = None
        self.trace = ""
        self.result: Any = None
        self.seconds, self.began = 0.0, 0.0
        self.ended = threading.Event()

    def move(self, state: str, doing: str) -> None:
        with self.lock:
            if state not in _MOVES[self.state]:
                raise IllegalMoveError(f"cannot {doing} a job that is {self.state}.")
            self.state = state
            if state == "running":
                self.began = time.perf_counter()
            elif state != "stopping":
                self.seconds += time.perf_counter() - self.began

    def snapshot(self) -> Snapshot:
        """Everything as of now: whoever is slow to look sees the newest, never a queue of old news."""
        with self.lock:
            running = time.perf_counter() - self.began if self.state in ("running", "stopping") else 0.0
            return Snapshot(self.state, tuple(self.events), self.error, self.trace, self.seconds + running)

    def work(self, resume: bool) -> None:
        """The training thread."""
        try:
            with _single_thread:
                work = self.make(self.stop, resume)
                for event in work.run():
                    with self.lock:
                        self.events.append(event)
                    self.wake.set()
                self.result = work.result()
            stopped = getattr(self.result, "stopped", self.stop.is_set())
            self._finish("stopped" if stopped else "done")
        except BaseException as error:  # a thread has nobody to raise to: stored, shown, raised again by Job.result()
            self.error, self.trace = error, traceback.format_exc()
            self._finish("failed")

    def _finish(self, state: str) -> None:
        with self.lock:
            if state == "stopped" and self.state == "running":  # the work ended early by itself
                self.state = "stopping"
            self.move(state, "finish")
        self.ended.set()
        self.wake.set()


class _SingleThread:
    """Entered by a job's thread: it computes with one torch thread, so that the kernel stays responsive.

    torch keeps the number per thread, but threads started later inherit the one set last: it is put back with the last
    job.
    """

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, 1

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = torch.get_num_threads()
            self._users += 1
            torch.set_num_threads(1)

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                torch.set_num_threads(self._before)


_single_thread = _SingleThread()


def _tell(core: _Core, owner: weakref.ref[Job], interval: float) -> None:
    """The telling thread: newest snapshot to the owner's trait, at most once per ``interval``, the last one always."""
    while True:
        core.wake.wait()
        core.wake.clear()
        over = core.ended.is_set()
        job = owner()
        if job is None:
            core.stop.set()
            return
        job._publish(core.snapshot())
        del job
        if over:
            return
        core.wake.clear()
        core.ended.wait(interval)
        core.wake.set()


class Job(t.HasTraits):
    """One piece of background work that can be stopped and resumed.

    Args:
        make: ``make(stop, resume)`` -> the work, called in the background thread at every start. ``stop`` is the event
            the work must look at; ``resume`` says that it continues. It must not hold on to the job or its panel.
        interval: seconds between two snapshots (default 0.15: about seven a second).

    Attributes:
        snapshot: trait, the newest :class:`Snapshot`; observers run in a background thread and should only set traits.
            What an observer raises is kept in ``observer_error``.

    Example:
        >>> job = Job(lambda stop, resume: Distiller(..., stop=stop, resume=resume))  # doctest: +SKIP
        >>> job.start(); job.stop(); job.join(); job.resume()  # doctest: +SKIP
    """

    snapshot = t.Instance(Snapshot, args=())
    observer_error = t.Any(None, allow_none=True)

    def __init__(self, make: Callable[[threading.Event, bool], Work], *, interval: float = 0.15) -> None:
        super().__init__()
        if not interval > 0:
            raise ValueError(f"interval must be > 0 seconds, got {interval!r}.")
        self._core, self._interval = _Core(make), interval
        self._threads: tuple[threading.Thread, ...] = ()
        self.close = weakref.finalize(self, self._core.stop.set)
        """Stop the work without waiting; also called when the job is collected or Python ends."""

    @property
    def state(self) -> str:
        """One of :data:`STATES`, without the delay of the snapshots."""
        return self._core.state

    def start(self) -> None:
        """Begin. Raises :class:`IllegalMoveError` unless idle (a second start is refused)."""
        if self.state != "idle":
            raise IllegalMoveError(
                f"cannot start a job that is {self.state}"
                + (": resume it." if self.state in ("stopped", "failed") else ".")
            )
        self._launch(resume=False)

    def resume(self) -> None:
        """Continue after a stop or a failure. Raises :class:`IllegalMoveError` in other states."""
        if self.state not in ("stopped", "failed"):
            raise IllegalMoveError(f"cannot resume a job that is {self.state}.")
        self._launch(resume=True)

    def stop(self) -> None:
        """Ask the work to stop after its current batch; returns at once (see :meth:`join`).

        Raises:
            IllegalMoveError: not running. Stopping twice is one stop.
        """
        core = self._core
        with core.lock:
            if core.state == "stopping":
                return
            core.move("stopping", "stop")
            core.stop.set()
        core.wake.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the work has ended and its last snapshot was published; ``False`` after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads if thread is not threading.current_thread())

    def result(self) -> Any:
        """What the work returned.

        Raises:
            IllegalMoveError: it has not ended.
            Exception: whatever made it fail.
        """
        core = self._core
        if core.state == "failed":
            assert core.error is not None
            raise core.error
        if core.state not in ("stopped", "done"):
            raise IllegalMoveError(f"a job that is {core.state} has no result yet.")
        return core.result

    def _launch(self, *, resume: bool) -> None:
        core = self._core
        if not self.close.alive:
            raise IllegalMoveError(f"cannot {'resume' if resume else 'start'} a job that was closed.")
        self.join()
        with core.lock:
            core.move("running", "resume" if resume else "start")
            core.stop.clear()
            core.ended.clear()
            core.error, core.trace = None, ""
        core.wake.set()
        self._threads = (
            threading.Thread(target=core.work, args=(resume,), name="kdw-job", daemon=True),
            threading.Thread(
                target=_tell, args=(core, weakref.ref(self), self._interval), name="kdw-job-news", daemon=True
            ),
        )
        for thread in self._threads:
            thread.start()

    def _publish(self, snapshot: Snapshot) -> None:
        try:
            self.snapshot = snapshot
        except Exception as error:  # an observer's fault must not stop the news; it is kept for whoever asks
            self.observer_error = error
