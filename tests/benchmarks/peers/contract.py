"""What every measured program of Python does, whatever library it stands on: it works, it fills, it paces.

    work    wait for a line on standard input, then run jobs until standard input ends
    fill    enqueue a number of jobs, in the library's own best way of enqueueing many, and say how long that took
    send    the same one by one
    pace    enqueue a number of jobs at a steady rate and write down when each was called for and when the call returned

A worker counts the jobs that it ran into a file of its own, at most every ten milliseconds: that costs a job a
fraction of a microsecond, and whoever measures need not ask the library or its database, which would slow both down.
Only the standard library is imported here, because each library lives in an environment of its own.
"""

import itertools
import json
import os
import struct
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from threading import Thread
from typing import Any, Literal

Work = Literal["nothing", "wait", "stamp"]

#: Seconds that a job of kind `wait` takes.
WAIT = 0.01
#: The first number of a paced job; the jobs that warm the workers up have lower ones.
PACED_FROM = 1_000_000
#: Seconds between two notes of how far a worker is.
NOTE_EVERY = 0.01
#: Count, and the first and the last moment of the monotonic clock, which all processes of a machine share.
TALLY = struct.Struct("<qqq")


class Tally:
    """Counts what this process ran."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._count = self._first = self._last = 0
        self._starts: list[tuple[int, int]] = []

    def begin(self) -> None:
        """Start writing notes."""
        self._folder = Path(os.environ["BENCH_FOLDER"])
        self._file = os.open(self._folder / f"{os.getpid()}.tally", os.O_CREAT | os.O_WRONLY)
        Thread(target=self._note_forever, daemon=True).start()

    def done(self) -> None:
        """Count one job; called from any thread, at its end."""
        self._last = time.monotonic_ns()
        self._count = next(self._numbers)
        if self._count == 1:
            self._first = self._last

    def stamp(self, number: int) -> None:
        """Remember when a numbered job started."""
        self._starts.append((number, time.time_ns()))
        self.done()

    def end(self) -> None:
        """Write what was remembered."""
        self._note()
        (self._folder / f"{os.getpid()}.starts").write_text(json.dumps(self._starts))

    def _note_forever(self) -> None:
        while True:
            time.sleep(NOTE_EVERY)
            self._note()

    def _note(self) -> None:
        os.pwrite(self._file, TALLY.pack(self._count, self._first, self._last), 0)


tally = Tally()


def nothing() -> None:
    """Do nothing."""
    tally.done()


def wait() -> None:
    """Wait as for an answer from elsewhere."""
    time.sleep(WAIT)
    tally.done()


def stamp(number: int) -> None:
    """Say when it started."""
    tally.stamp(number)


#: The three jobs by name; an asynchronous library brings its own `wait`.
JOBS: dict[str, Any] = {"nothing": nothing, "wait": wait, "stamp": stamp}


class Peer(ABC):
    """One library."""

    def prepare(self) -> None:  # noqa: B027 - most have none
        """Make the tables, if there are any; called once for a fresh database."""

    @abstractmethod
    def send(self, work: Work, number: int) -> None:
        """Enqueue one job."""

    def fill(self, work: Work, count: int) -> None:
        """Enqueue many; one by one unless the library knows better."""
        for number in range(count):
            self.send(work, number)

    @abstractmethod
    def work(self, concurrency: int) -> None:
        """Run jobs for ever."""

    def leave(self) -> None:
        """End the process, whatever the library thinks of signals: the measurement is over, or who measured is gone."""
        tally.end()
        os._exit(0)


def main(peer: Peer) -> None:
    """Do what the command line asks for."""
    role, *arguments = sys.argv[1:]
    match role, arguments:
        case "prepare", []:
            peer.prepare()
        case "work", [concurrency]:
            _work(peer, int(concurrency))
        case (("fill" | "send"), [("nothing" | "wait" | "stamp") as work, count]):
            _timed(peer, role, work, int(count))
        case "pace", [count, rate]:
            pace(peer, int(count), float(rate))
        case _:
            raise SystemExit(f"unknown request: {sys.argv[1:]}")


def _work(peer: Peer, concurrency: int) -> None:
    tally.begin()
    print("ready", flush=True)  # noqa: T201 - the answer
    sys.stdin.readline()
    Thread(target=_leave_at_the_end_of_standard_input, args=(peer,), daemon=True).start()
    peer.work(concurrency)
    tally.end()


def _leave_at_the_end_of_standard_input(peer: Peer) -> None:
    sys.stdin.read()
    peer.leave()


def _timed(peer: Peer, role: str, work: Work, count: int) -> None:
    peer.send(work, 0)  # connections are made and scripts are loaded before the clock starts
    started = time.monotonic()
    if role == "fill":
        peer.fill(work, count - 1)
    else:
        for number in range(1, count):
            peer.send(work, number)
    print(json.dumps({"seconds": time.monotonic() - started, "count": count - 1}))  # noqa: T201 - the answer


def pace(peer: Peer, count: int, rate: float) -> None:
    """Enqueue at a steady rate; a late enqueue is not made up for by a burst."""
    calls = []
    due = time.monotonic()
    for number in range(PACED_FROM, PACED_FROM + count):
        time.sleep(max(0.0, due - time.monotonic()))
        called = time.time_ns()
        peer.send("stamp", number)
        calls.append((number, called, time.time_ns()))
        due = max(due + 1 / rate, time.monotonic())
    print(json.dumps(calls))  # noqa: T201 - the answer
