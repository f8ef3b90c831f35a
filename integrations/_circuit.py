"""When an upstream is left alone, and who finds out that it is back: the rules, and the circuit that one process keeps.

    closed   calls pass and are counted. It opens once enough of those within the window have failed.
    open     no call passes until the time of the next probe. Then exactly one does: its token is the probe.
             If the probe is answered the circuit closes and everything counted is forgotten; if it fails the circuit
             stays open for longer. A probe that never comes back is forgotten when its lease is over.

An answer of any kind is a sign of life, also a refusal or a request for patience; only silence, a broken answer and a
5xx are failures. What a call began before the circuit opened says nothing about it any more.

The circuit of this module is in the memory of one process: what `integrations._shared_circuit` falls back on, and the
model that the shared one is tested against.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import Protocol

#: Seconds over which calls are counted, and in how many slices: what is older than the window is dropped by the slice.
WINDOW, SLICES = 60.0, 6
#: Calls within the window below which nothing is concluded, and the part of them that must have failed.
LEAST, RATIO = 10, 0.5
#: Seconds that it is open at first; doubled with each probe that fails, up to the longest.
FIRST, LONGEST = 5.0, 120.0
#: Seconds that a probe may take before another call may try: a call and its deadline fit in.
LEASE = 30.0


class Verdict(StrEnum):
    """What a call told about its upstream."""

    ANSWERED = "answered"
    FAILED = "failed"
    #: It was never sent, or was ended from within: nothing is known.
    UNTOLD = "untold"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a circuit stands."""

    #: Seconds since the epoch, by the clock of whoever keeps the circuit.
    at: float
    #: Seconds for which it has been open; None when it is closed.
    open_for: float | None = None
    #: Seconds until a call may try; 0 for whoever may.
    wait: float = 0.0


class Circuit(Protocol):
    """The circuit of one upstream."""

    def admit(self, token: str) -> Standing:
        """Ask whether a call may be made; it may if there is nothing to wait for."""

    def settle(self, token: str, verdict: Verdict) -> Standing | None:
        """Say what came of an admitted call; how the circuit stands if that changed it."""

    def reset(self) -> bool:
        """Close it and forget what was counted; whether it was open."""


class LocalCircuit:
    """A circuit in the memory of this process.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        #: Calls and failures by slice of time, only while it is closed.
        self._slices: dict[int, tuple[int, int]] = {}
        self._since = 0.0
        #: The next probe; None while it is closed.
        self._until: float | None = None
        #: How often it opened since it was last closed.
        self._opened = 0
        self._probe: str | None = None
        self._lease = 0.0

    def admit(self, token: str) -> Standing:
        """Ask whether a call may be made; it may if there is nothing to wait for."""
        with self._lock:
            now = self._clock()
            wait = self._wait(now)
            if self._until is not None and not wait:
                self._probe, self._lease = token, now + LEASE
            return self._standing(now, wait)

    def settle(self, token: str, verdict: Verdict) -> Standing | None:
        """Say what came of an admitted call; how the circuit stands if that changed it."""
        with self._lock:
            now = self._clock()
            changed = self._count(now, verdict) if self._until is None else self._probed(now, token, verdict)
            return self._standing(now, self._wait(now)) if changed else None

    def reset(self) -> bool:
        """Close it and forget what was counted; whether it was open."""
        with self._lock:
            was_open = self._until is not None
            self._close()
            return was_open

    def follow(self, standing: Standing) -> None:
        """Take over what another circuit of the same upstream says."""
        with self._lock:
            now = self._clock()
            self._close()
            if standing.open_for is not None:
                self._since, self._until, self._opened = now - standing.open_for, now + standing.wait, 1

    def _close(self) -> None:
        self._slices, self._until, self._opened, self._probe = {}, None, 0, None

    def _wait(self, now: float) -> float:
        if self._until is None:
            return 0.0
        if now < self._until:
            return self._until - now
        # Somebody is asking: look again soon, for the answer is near.
        return min(self._lease - now, FIRST) if self._probe is not None and now < self._lease else 0.0

    def _standing(self, now: float, wait: float) -> Standing:
        return Standing(time.time(), None if self._until is None else now - self._since, wait)

    def _count(self, now: float, verdict: Verdict) -> bool:
        if verdict is Verdict.UNTOLD:
            return False
        failed = verdict is Verdict.FAILED
        current = int(now // (WINDOW / SLICES))
        self._slices = {number: both for number, both in self._slices.items() if number > current - SLICES}
        calls, failures = self._slices.get(current, (0, 0))
        self._slices[current] = calls + 1, failures + failed
        calls = sum(each for each, _ in self._slices.values())
        failures = sum(each for _, each in self._slices.values())
        if not failed or calls < LEAST or failures < RATIO * calls:
            return False
        self._since = now
        self._open(now)
        return True

    def _probed(self, now: float, token: str, verdict: Verdict) -> bool:
        if token != self._probe:
            return False
        self._probe = None
        if verdict is Verdict.ANSWERED:
            self._close()
        elif verdict is Verdict.FAILED:
            self._open(now)
        return verdict is not Verdict.UNTOLD

    def _open(self, now: float) -> None:
        self._until = now + min(FIRST * 2.0**self._opened, LONGEST)
        self._opened += 1
        self._slices = {}
