"""Rules in time: when a schedule fires.

`every(hours=1)` fires on a fixed grid of elapsed time counted from 1970-01-01 UTC, so any number of schedulers agree
on it without talking. `cron("0 3 * * *", zone="Europe/Berlin")` reads the wall clock of a zone with cron's own
meaning of weekdays (Sunday is 0 or 7) and days; a fixed time that falls into the gap of a DST change fires right
after it, and one that happens twice fires once. `at("2026-12-01 08:00", zone="Europe/Berlin")` fires once in its life,
by the same rule for the clock. The arithmetic is cronsim's.

A rule is kept in the database as its text and its zone, and read back from them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import Protocol, Unpack
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from jobs._fire_policy import MAKE_IT_SO, BadRule, FirePolicy, Policies

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Between these a moment may lie; arithmetic at the ends of the calendar leads out of it.
FIRST, LAST = EPOCH, datetime(3000, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
#: Units that an interval is shown in, largest first, with their seconds.
UNITS = {"d": 86_400, "h": 3_600, "min": 60, "m": 60, "s": 1}
INTERVAL = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?(d|h|min|m|s)")
SHORTEST, LONGEST = timedelta(seconds=1), timedelta(days=36_500)


class Rule(Protocol):
    """A rule in time."""

    @property
    def policy(self) -> FirePolicy:
        """What is done when fires come late, or meet each other's runs."""

    @property
    def text(self) -> str:
        """The rule as people read it."""

    @property
    def zone(self) -> str:
        """IANA name of the zone it is read in."""

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the fires strictly after `moment`, in order and in UTC; it may never end."""

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first of them; None if it never fires again."""


@dataclass(frozen=True)
class Every:
    """Fires on a fixed grid."""

    interval: timedelta
    zone: str = "UTC"
    policy: FirePolicy = MAKE_IT_SO

    @property
    def text(self) -> str:
        micros = self.interval // MICROSECOND
        whole = (unit for unit, seconds in UNITS.items() if micros % (seconds * 1_000_000) == 0)
        unit = next(whole, "s")
        return f"every {Decimal(micros) / (UNITS[unit] * 1_000_000):f} {unit}"

    def after(self, moment: datetime) -> Iterator[datetime]:
        fire = self.next_after(moment)
        while True:
            yield fire
            fire += self.interval

    def next_after(self, moment: datetime) -> datetime:
        return EPOCH + self.interval * ((moment - EPOCH) // self.interval + 1)


@dataclass(frozen=True)
class Cron:
    """Fires when the wall clock of a zone matches."""

    expression: str
    zone: str = "UTC"
    policy: FirePolicy = MAKE_IT_SO

    @property
    def text(self) -> str:
        return f"cron {self.expression}"

    def after(self, moment: datetime) -> Iterator[datetime]:
        for fire in self._from(moment.astimezone(ZoneInfo(self.zone))):
            if fire > moment:  # several that fall into one gap fire once
                yield fire
                moment = fire

    def next_after(self, moment: datetime) -> datetime:
        fire = next(self.after(moment), None)
        if fire is None:
            raise BadRule(f"the cron rule {self.expression!r} never fires")
        return fire

    def _from(self, local: datetime) -> Iterator[datetime]:
        """Yield the fires from about a local time on; asked within an hour that happens twice, from its beginning."""
        minute, hour = self.expression.split()[-5:-3]
        if minute.startswith("*") or hour.startswith("*"):
            return (fire.astimezone(UTC) for fire in CronSim(self.expression, local))
        zone = local.tzinfo
        return (_on_the_wall(fire, zone) for fire in CronSim(self.expression, local.replace(tzinfo=None)))


@dataclass(frozen=True)
class At:
    """Fires once."""

    moment: datetime
    zone: str = "UTC"
    policy: FirePolicy = MAKE_IT_SO

    @property
    def text(self) -> str:
        return f"at {self.moment.astimezone(ZoneInfo(self.zone)).isoformat()}"

    def after(self, moment: datetime) -> Iterator[datetime]:
        return iter([self.moment] if moment < self.moment else [])

    def next_after(self, moment: datetime) -> datetime | None:
        return next(self.after(moment), None)


def every(*, hours: float = 0, minutes: float = 0, seconds: float = 0, **policies: Unpack[Policies]) -> Every:
    """Return a rule that fires at a fixed interval of at least one second.

    Args:
        hours: Of the interval, with the others added.
        minutes: Of the interval.
        seconds: Of the interval.
        policies: What it does beside that, see `jobs/_fire_policy.py`.

    Raises:
        BadRule: If the interval is shorter than a second, or no number; if a policy makes no sense.
    """
    try:
        interval = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    except (ValueError, OverflowError):
        raise BadRule("the interval cannot be read: give a number of hours, minutes or seconds") from None
    return Every(_bounded(interval), policy=FirePolicy(**policies))


def cron(expression: str, *, zone: str = "UTC", **policies: Unpack[Policies]) -> Cron:
    """Return a rule in cron's five fields (or six with seconds first), read in an IANA zone.

    Args:
        expression: The fields.
        zone: In which the clock is read.
        policies: What it does beside that, see `jobs/_fire_policy.py`.

    Raises:
        BadRule: If the expression, the zone, or their combination cannot be read; if a policy makes no sense.
    """
    return Cron(_checked(expression, zone), zone, FirePolicy(**policies))


def at(moment: str, *, zone: str = "UTC", **policies: Unpack[Policies]) -> At:
    """Return a rule that fires once; never, if its moment has passed when a scheduler first hears of it.

    Args:
        moment: Date and time in ISO 8601, on the wall of the zone unless it says its own distance from UTC.
        zone: In which the clock is read.
        policies: What it does beside that, see `jobs/_fire_policy.py`.

    Raises:
        BadRule: If the moment or the zone cannot be read; if a policy makes no sense.
    """
    return At(_moment(moment, zone), zone, FirePolicy(**policies))


def read(text: str, zone: str, policy: FirePolicy = MAKE_IT_SO) -> Rule:
    """Return the rule that has this text and this zone.

    Raises:
        BadRule: If none has, or it cannot be read.
    """
    return replace(_read(text, zone), policy=policy)


@lru_cache(maxsize=20_000)
def _read(text: str, zone: str) -> Every | Cron | At:
    _check_zone(zone)
    kind, _, rest = text.partition(" ")
    match kind:
        case "every":
            return Every(_interval(rest), zone)
        case "cron":
            return Cron(_checked(rest, zone), zone)
        case "at":
            return At(_moment(rest, zone), zone)
        case _:
            raise BadRule(f"{text!r} is no rule: write `every 15 min`, `cron 0 3 * * *` or `at 2026-12-01T08:00`")


def fires(rule: Rule, after: datetime, until: datetime) -> tuple[list[datetime], datetime | None]:
    """Return the fires with `after` < fire <= `until`, in order, and the one that follows."""
    found: list[datetime] = []
    for moment in rule.after(after):
        if moment > until:
            return found, moment
        found.append(moment)
    return found, None


def newest(rule: Rule, first: datetime, until: datetime, most: int) -> tuple[list[datetime], datetime | None]:
    """Return the last fires from `first`, which is one of them, to `until`, oldest first, and the one that follows.

    However long that time is, only a few times `most` fires are worked out.
    """
    span = timedelta(hours=1)
    while until - span > first:
        found, then = fires(rule, until - span, until)
        if len(found) >= most:
            return found[-most:], then
        span *= 8
    found, then = fires(rule, first, until)
    return [first, *found][-most:], then


def _interval(typed: str) -> timedelta:
    spelled = INTERVAL.fullmatch(typed.strip())
    if spelled is None:
        raise BadRule(f"{typed!r} is no interval: write 90 s, 15 min, 2 h or 1 d")
    # Large enough for what is refused, and small enough for a timedelta.
    micros = min(Decimal(spelled[1]) * UNITS[spelled[2]] * 1_000_000, Decimal(10) ** 18)
    interval = timedelta(microseconds=int(micros))
    return _bounded(interval)


def _bounded(interval: timedelta) -> timedelta:
    seconds = interval.total_seconds()
    if interval < SHORTEST:
        raise BadRule(f"an interval of {seconds:g} s is too short: use one second or more")
    if interval > LONGEST:
        raise BadRule(f"an interval of {seconds:g} s is too long: use {LONGEST.days} days or less")
    return interval


def _checked(expression: str, zone: str) -> str:
    _check_zone(zone)
    try:
        CronSim(expression, EPOCH)
    except CronSimError as error:
        reason = str(error).replace("Bad day-of-month", "bad day-of-month: its months have no such day")
        raise BadRule(f"the cron rule {expression!r} cannot be read: {reason}") from None
    Cron(expression, zone).next_after(EPOCH)
    return expression


def _moment(typed: str, zone: str) -> datetime:
    _check_zone(zone)
    try:
        spelled = datetime.fromisoformat(typed.strip())
        moment = (_on_the_wall(spelled, ZoneInfo(zone)) if spelled.tzinfo is None else spelled).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadRule(f"{typed!r} is no date and time such as 2026-12-01T08:00: {error}") from None
    if not FIRST <= moment < LAST:
        raise BadRule(f"{typed!r} is too far away: it has to lie between {FIRST.year} and {LAST.year}")
    return moment


def _on_the_wall(naive: datetime, zone: tzinfo | None) -> datetime:
    """Return when the clocks of a zone show this for the first time; right after the gap, if it falls into one."""
    local = naive.replace(tzinfo=zone)
    while local.astimezone(UTC).astimezone(zone) != local:
        local = local.replace(second=0) + timedelta(minutes=1)
    return local.astimezone(UTC)


def _check_zone(zone: str) -> None:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise BadRule(f"{zone!r} is not a known time zone: use an IANA name such as Europe/Berlin") from None
