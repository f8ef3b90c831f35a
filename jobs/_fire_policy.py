"""What a schedule does beside its rule: about fires that came too late, a run in the way, holidays, crowded hours.

Nobody recorded a fire in time because no scheduler ran, or none could reach the database. `missed` says what is made up
for then:

    ONCE       one run does the work of all; the default, for jobs that say "make it so"
    SKIP       nothing; the next fire comes in time
    each(...)  a run for each of the newest ones, which reads in `context.slot_at` what it is for

`overlap` says what a fire does when an earlier run still waits or runs:

    JOIN       nothing new: that run does its work; the default
    QUEUE      one run may wait behind the one that runs; further fires join it
    ALLOW      a new run, side by side
    REPLACE    the earlier run is cancelled for a new one

`excluding` names days on which it does not fire, in the zone of its rule: a set of dates, or anything that can tell
whether it contains one. `jitter` spreads schedules that share a time: each starts its runs up to so many seconds later,
always by the same.

Whatever is decided, each planned fire has its slot with one outcome.
"""

import math
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import TypedDict
from zoneinfo import ZoneInfo

#: Seconds after which a fire that nobody recorded counts as missed.
LATE = 60.0
#: Missed fires of a schedule that may get a run each.
MOST_EACH = 1_000
#: Seconds.
MOST_JITTER = 86_400
NO_DAYS: frozenset[date] = frozenset()
EACH = re.compile(r"each (\d{1,4})(?: within (\d{1,12}(?:\.\d{1,6})?) s)?")


class BadRule(ValueError):  # noqa: N818 - reads as what it is in a message
    """A schedule's rule or policy cannot be read; the message says which part."""


class Overlap(StrEnum):
    """What a fire does when a run of its schedule has not ended."""

    JOIN = "join"
    QUEUE = "queue"
    ALLOW = "allow"
    REPLACE = "replace"


@dataclass(frozen=True)
class Missed:
    """How many missed fires are made up for."""

    #: The newest ones.
    most: int
    #: Not older than this, in seconds.
    within: float = math.inf
    #: All of them by the run of the last fire.
    folded: bool = False

    @property
    def text(self) -> str:
        """The policy as people write and read it."""
        if self.folded or not self.most:
            return "once" if self.folded else "skip"
        within = f"{self.within:.6f}".rstrip("0").rstrip(".")
        return f"each {self.most}" + (f" within {within} s" if math.isfinite(self.within) else "")


ONCE = Missed(1, folded=True)
SKIP = Missed(0)


def each(*, most: int, within: float = math.inf) -> Missed:
    """Return a policy that gives missed fires a run each.

    Args:
        most: How many, the newest ones.
        within: Seconds; older fires are not made up for.

    Raises:
        BadRule: If there would be none, or too many.
    """
    if not 1 <= most <= MOST_EACH:
        raise BadRule(f"{most} missed fires cannot be made up for: give 1 to {MOST_EACH}")
    if not within >= 1:
        raise BadRule(f"missed fires of the last {within:g} s are none: give a longer time, or SKIP")
    return Missed(most, round(within, 6))


def read_missed(text: str) -> Missed:
    """Return the policy that has this text: `once`, `skip`, `each 24` or `each 24 within 86400 s`.

    Raises:
        BadRule: If none has.
    """
    if text in {ONCE.text, SKIP.text}:
        return ONCE if text == ONCE.text else SKIP
    spelled = EACH.fullmatch(text)
    if spelled is None:
        raise BadRule(f"{text!r} says not what becomes of missed fires: write once, skip, or each 24 within 86400 s")
    return each(most=int(spelled[1]), within=float(spelled[2] or math.inf))


class Policies(TypedDict, total=False):
    """What may be said beside a rule; see the module."""

    missed: Missed
    overlap: Overlap
    excluding: Container[date]
    jitter: float


@dataclass(frozen=True)
class FirePolicy:
    """What a schedule does beside its rule.

    Raises:
        BadRule: If the jitter is none.
    """

    missed: Missed = ONCE
    overlap: Overlap = Overlap.JOIN
    excluding: Container[date] = NO_DAYS
    #: Seconds.
    jitter: float = 0

    def __post_init__(self) -> None:
        if not 0 <= self.jitter <= MOST_JITTER:
            raise BadRule(f"a jitter of {self.jitter:g} s makes no sense: give 0 to {MOST_JITTER} s")

    def excludes(self, moment: datetime, zone: str) -> bool:
        """Whether the day of this moment in the zone is left out."""
        return self.excluding is not NO_DAYS and moment.astimezone(ZoneInfo(zone)).date() in self.excluding

    def starts(self, schedule: str, moment: datetime) -> datetime:
        """Return when the run of a fire is due: the same distance for each fire of one schedule."""
        share = int.from_bytes(sha256(schedule.encode()).digest()[:8], "big") / 2**64
        return moment + timedelta(seconds=self.jitter * share)


MAKE_IT_SO = FirePolicy()


def outcomes(planned: Sequence[datetime], now: datetime, missed: Missed) -> list[str]:
    """Return what planned fires become, oldest first, if no run is in the way.

    `ran` and `caught_up` want a run each, `coalesced` has the run of the last one, `missed` has none.
    """
    if not planned:
        return []
    ages = [(now - moment).total_seconds() for moment in planned]
    if missed.folded:
        return ["coalesced"] * (len(ages) - 1) + ["caught_up" if ages[-1] > LATE else "ran"]
    late = [age for age in ages if age > LATE]
    given_up = len(late) - missed.most
    return [
        "ran" if age <= LATE else "caught_up" if place >= given_up and age <= missed.within else "missed"
        for place, age in enumerate(ages)
    ]
