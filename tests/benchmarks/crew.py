"""The worker processes of one round: started at a gate, counted while they work, asked to leave at the end."""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Self

import psutil

from sandbox.fleet import ROOT
from tests.benchmarks.peers.contract import TALLY

#: Seconds between two looks at how far they are, and that a start or a leave may take.
LOOK = 0.02
PATIENCE = 60.0


class GaveUp(RuntimeError):  # noqa: N818 - reads as what it is in a message
    """A process did not do what it was asked for; the message says what it said last."""


@dataclass(frozen=True)
class Progress:
    """What a crew has done until now; moments are of the monotonic clock, in seconds."""

    count: int
    first: float
    last: float


class Crew:
    """Several processes of one program.

    Args:
        command: The program with its request.
        count: How many of it.
        environment: All that they see of the environment.
        folder: An empty folder for their notes and logs.
    """

    def __init__(self, command: Sequence[str], count: int, environment: Mapping[str, str], folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._members = [
            self._launch(command, number, {**environment, "BENCH_FOLDER": str(folder)}) for number in range(count)
        ]

    def ready(self) -> None:
        """Return once all of them stand at the gate.

        Raises:
            GaveUp: If one of them ends before, or takes too long.
        """
        overdue = Timer(PATIENCE, self.close)
        overdue.start()
        try:
            for number, member in enumerate(self._members):
                assert member.stdout
                if member.stdout.readline().strip() != "ready":
                    raise GaveUp(self._last_word(number))
        finally:
            overdue.cancel()

    def go(self) -> None:
        """Open the gate."""
        for member in self._members:
            assert member.stdin
            member.stdin.write("go\n")
            member.stdin.flush()

    def progress(self) -> Progress:
        """Return how far they are together."""
        notes = [
            note
            for file in self._folder.glob("*.tally")
            if len(read := file.read_bytes()) == TALLY.size
            for note in [TALLY.unpack(read)]
            if note[0]
        ]
        if not notes:
            return Progress(0, 0.0, 0.0)
        counts, firsts, lasts = zip(*notes, strict=True)
        return Progress(sum(counts), min(firsts) / 1e9, max(lasts) / 1e9)

    def done(self, count: int, seconds: float) -> Progress:
        """Return how far they are once they have run so many jobs.

        Raises:
            GaveUp: If it takes longer than the given time, or one of them has ended.
        """
        deadline = time.monotonic() + seconds
        while (progress := self.progress()).count < count:
            ended = [number for number, member in enumerate(self._members) if member.poll() is not None]
            if ended:
                raise GaveUp(self._last_word(ended[0]))
            if time.monotonic() > deadline:
                raise GaveUp(f"{progress.count:,} of {count:,} jobs in {seconds:g} s")
            time.sleep(LOOK)
        return progress

    def cpu(self) -> float:
        """Return the processor seconds that they have used."""
        used = 0.0
        for member in self._members:
            times = psutil.Process(member.pid).cpu_times()
            used += times.user + times.system
        return used

    def leave(self) -> list[tuple[int, int]]:
        """Ask them to leave and return what they remember: numbers of jobs and their starts by the wall clock."""
        for member in self._members:
            assert member.stdin
            member.stdin.close()
        for member in self._members:
            member.wait(PATIENCE)
        return [(number, at) for file in self._folder.glob("*.starts") for number, at in json.loads(file.read_text())]

    def close(self) -> None:
        """End whoever is still there."""
        for member in self._members:
            if member.poll() is None:
                member.kill()
                member.wait()

    def _launch(self, command: Sequence[str], number: int, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
        with self._log(number).open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def _log(self, number: int) -> Path:
        return self._folder / f"{number}.log"

    def _last_word(self, number: int) -> str:
        said = self._log(number).read_text(errors="replace").strip().splitlines() or ["it ended without a word"]
        return said[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ask(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        GaveUp: If it fails or takes longer than the given time.
    """
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise GaveUp(f"not done in {seconds:g} s") from None
    if done.returncode:
        raise GaveUp((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
    return done.stdout
