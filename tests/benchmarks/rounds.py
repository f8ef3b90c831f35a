"""The measuring itself: rounds that take turns, medians, ratios, and what becomes of one that cannot take part.

Every contestant is measured once, then every contestant again: a machine that slows down in the middle slows all of
them. What is compared is the median of each, and only within one run of this program.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Contestant = TypeVar("Contestant")
Figures = Mapping[str, float]


@dataclass
class Measured(Generic[Contestant]):
    """What all rounds of one contestant gave."""

    contestant: Contestant
    rounds: list[Figures] = field(default_factory=list)
    #: Why it was given up; its rounds until then are not shown.
    failure: str | None = None

    def median(self, name: str) -> float | None:
        """Return the median of a figure, or None if it was given up or has none such."""
        found = [figures[name] for figures in self.rounds if name in figures]
        return None if self.failure or not found else statistics.median(found)


def take_turns(
    contestants: Sequence[Contestant],
    measure: Callable[[Contestant], Figures],
    repeats: int,
    say: Callable[[str], None] = lambda _: None,
) -> list[Measured[Contestant]]:
    """Measure all contestants in turn, several times; one that fails is left out from then on.

    Args:
        contestants: In the order of the table.
        measure: One round of one contestant.
        repeats: Rounds of each.
        say: Told what happens.
    """
    all_measured = [Measured(contestant) for contestant in contestants]
    for number in range(1, repeats + 1):
        for measured in all_measured:
            if measured.failure is None:
                _round(measured, measure)
                say(f"round {number} of {repeats}: {measured.contestant}: {measured.failure or _shown(measured)}")
    return all_measured


def ratio(value: float | None, base: float | None) -> float | None:
    """Return value / base where both are known."""
    return value / base if value is not None and base else None


def _round(measured: Measured[Contestant], measure: Callable[[Contestant], Figures]) -> None:
    try:
        measured.rounds.append(measure(measured.contestant))
    except Exception as error:  # noqa: BLE001 - whatever a peer does wrong is its line of the table
        measured.failure = (str(error).strip() or type(error).__name__).splitlines()[-1]


def _shown(measured: Measured[Contestant]) -> str:
    return ", ".join(f"{name} {value:,.2f}" for name, value in measured.rounds[-1].items())
