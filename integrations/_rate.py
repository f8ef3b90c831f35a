"""How much of an upstream we use: calls in a time, calls at once after a quiet time, and calls under way together.

Each integration declares what its upstream's documents allow (`Integration.rate`); who has agreed on something else
with the upstream says so in the environment. One account has one budget, however many processes spend it. A process
that cannot ask the others spends a part of it, so that all together stay near the whole and none is unlimited.
"""

import re
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import AfterValidator, Field

from integrations._settings import IntegrationSettings

#: The part of a budget, of a burst and of the places that a process takes which cannot ask the others.
PART = 8

_PERIODS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_WRITTEN = re.compile(r"([1-9]\d{0,6})/(s|min|h)")


@dataclass(frozen=True, slots=True)
class Rate:
    """What one account may ask of its upstream; a call costs one unit unless it says otherwise."""

    #: Units that come back within a period, evenly.
    calls: int
    #: Seconds.
    period: float
    #: Units that may be spent at once when nothing was spent for a while. The most within one period is both together.
    burst: int
    #: Calls under way at the same time, of all processes.
    concurrency: int

    def __post_init__(self) -> None:
        if min(self.calls, self.period, self.burst, self.concurrency) <= 0:
            raise ValueError("a rate needs at least one call, one unit of burst, and one place: pause it to stop it")

    @property
    def interval(self) -> float:
        """Seconds until one unit has come back."""
        return self.period / self.calls

    def part(self) -> "Rate":
        """Return what a process may spend that cannot ask the others."""
        return Rate(self.calls, self.period * PART, max(1, self.burst // PART), max(1, self.concurrency // PART))

    def slower(self, interval: float) -> "Rate":
        """Return the same at the pace that an upstream has taught: seconds until one unit has come back."""
        return replace(self, calls=max(1, round(60 / interval)), period=60.0 if interval <= 60 else interval)  # noqa: PLR2004 - a minute

    def __str__(self) -> str:
        unit = next((unit for unit, seconds in _PERIODS.items() if seconds == self.period), f"{self.period:g} s")
        return f"{self.calls}/{unit}"


#: For an upstream of which nothing is declared: polite to anybody.
POLITE = Rate(calls=10, period=1.0, burst=10, concurrency=8)


def written(text: str) -> str:
    """Check a rate as people write it.

    Raises:
        ValueError: It is none.
    """
    if _WRITTEN.fullmatch(text.strip()) is None:
        raise ValueError("write calls and a period, like 100/s, 600/min or 5000/h")
    return text.strip()


class PacedSettings(IntegrationSettings):
    """Settings of an integration whose rate may be agreed on with its upstream."""

    rate: Annotated[str, AfterValidator(written)] | None = Field(
        default=None, description="Calls that the upstream allows all processes together, like 100/s or 600/min."
    )
    concurrency: int | None = Field(
        default=None, ge=1, le=1_000, description="Calls under way there at the same time, of all processes together."
    )

    def agreed(self, declared: Rate) -> Rate:
        """Return the declared rate with what the environment says instead."""
        if self.rate is not None:
            calls, unit = self.rate.split("/")
            declared = replace(declared, calls=int(calls), period=_PERIODS[unit], burst=min(declared.burst, int(calls)))
        return replace(declared, concurrency=self.concurrency or declared.concurrency)
