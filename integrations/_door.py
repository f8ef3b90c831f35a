"""What each try of a call passes, in one step: the circuit of its upstream, its budget, and its places.

A call is let in by all of them or by none: what is refused spends no unit, takes no place and is no probe. The door of
this module is in the memory of one process. `integrations._shared_door` is the one that all processes share.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from integrations._budget import Hindrance, LocalBudget, Refusal
from integrations._circuit import LocalCircuit, Standing, Verdict
from integrations._rate import Rate
from integrations._teaching import NOTHING, Lesson


@dataclass(frozen=True, slots=True)
class Ask:
    """A try that wants to be let in."""

    #: Its name, unlike any other.
    token: str
    #: Units that it spends.
    cost: float = 1.0
    #: Seconds that it waits on the spot.
    patience: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a try was let in."""

    #: How the circuit stands.
    standing: Standing
    #: What is in the way; None for a try that was let in.
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What the end of a try changed."""

    #: How the circuit stands, if that is new.
    standing: Standing | None = None
    #: Seconds for which everybody stays away, if that is new.
    block: float | None = None


class Door(Protocol):
    """The way to one upstream."""

    def admit(self, ask: Ask) -> Answer:
        """Let a try in, or say what is in its way."""

    def settle(self, ask: Ask, verdict: Verdict, lesson: Lesson = NOTHING) -> Change:
        """Say what came of a try that was let in."""

    def reset(self) -> set[Hindrance]:
        """Close the circuit, end a block, forget what was counted and spent; what was in the way."""


class LocalDoor:
    """A door in the memory of this process.

    Args:
        rate: What may be spent.
        clock: Seconds that never go back.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self.circuit = LocalCircuit(clock)
        self.budget = LocalBudget(rate, clock)

    def admit(self, ask: Ask) -> Answer:
        """Let a try in, or say what is in its way."""
        standing = self.circuit.admit(ask.token)
        if standing.wait > 0:
            return Answer(standing, Refusal(Hindrance.CIRCUIT, standing.wait, standing.wait))
        refusal = self.budget.admit(ask.token, ask.cost, ask.patience)
        if refusal is not None:
            self.circuit.settle(ask.token, Verdict.UNTOLD)  # if it was the probe, the next one is
        return Answer(standing, refusal)

    def settle(self, ask: Ask, verdict: Verdict, lesson: Lesson = NOTHING) -> Change:
        """Say what came of a try that was let in."""
        return Change(self.circuit.settle(ask.token, verdict), self.budget.settle(ask.token, verdict, lesson, ask.cost))

    def reset(self) -> set[Hindrance]:
        """Close the circuit, end a block, forget what was counted and spent; what was in the way."""
        found = {Hindrance.BLOCKED} if self.budget.level().blocked is not None else set()
        self.budget.reset()
        return found | ({Hindrance.CIRCUIT} if self.circuit.reset() else set())

    def follow(self, answer: Answer) -> None:
        """Take over what another door to the same upstream says."""
        self.circuit.follow(answer.standing)
        if answer.refusal is not None and answer.refusal.hindrance is Hindrance.BLOCKED:
            self.budget.block(answer.refusal.ready)
