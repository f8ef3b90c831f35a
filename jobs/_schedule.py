"""Rules in time: when a schedule fires.

`every(hours=1)` fires on a fixed grid of elapsed time counted from 1970-01-01 UTC, so any number of schedulers agree
on it without talking. `cron("0 3 * * *", zone="Europe/Berlin")` reads the wall clock of a zone with cron's own
meaning of weekdays (Sunday is 0 or 7) and days; a fixed time that falls into the gap of a DST change fires right
after it, and one that happens twice fires once. The arithmetic is cronsim's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, Unpack
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from jobs._fire_policy import MAKE_IT_SO, BadRule, FirePolicy, Policies

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Units that an interval is shown in, largest first, with their seconds.
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


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

    def next_after(self, moment: datetime) -> datetime:
        """Return the first fire strictly after `moment`, in UTC."""


@dataclass(frozen=True)
class Every:
    """Fires on a fixed grid."""

    interval: timedelta
    zone: str = "UTC"
    policy: FirePolicy = MAKE_IT_SO

    @property
    def text(self) -> str:
        seconds = self.interval.total_seconds()
        size, unit = next(((size, unit) for size, unit in UNITS if seconds % size == 0), (1, "s"))
        return f"every {seconds / size:g} {unit}"

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

    def next_after(self, moment: datetime) -> datetime:
        local = moment.astimezone(ZoneInfo(self.zone))
        # Asked within an hour that happens twice, cronsim begins with that hour's first pass, which may lie behind us.
        simulated = (fire.astimezone(UTC) for fire in CronSim(self.expression, local))
        fire = next((fire for fire in simulated if fire > moment), None)
        if fire is None:
            raise BadRule(f"the cron rule {self.expression!r} never fires")
        return fire


def every(*, hours: float = 0, minutes: float = 0, seconds: float = 0, **policies: Unpack[Policies]) -> Rule:
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
    if interval < timedelta(seconds=1):
        raise BadRule(f"an interval of {interval.total_seconds():g} s is too short: use one second or more")
    return Every(interval, policy=FirePolicy(**policies))


def cron(expression: str, *, zone: str = "UTC", **policies: Unpack[Policies]) -> Rule:
    """Return a rule in cron's five fields (or six with seconds first), read in an IANA zone.

    Args:
        expression: The fields.
        zone: In which the clock is read.
        policies: What it does beside that, see `jobs/_fire_policy.py`.

    Raises:
        BadRule: If the expression, the zone, or their combination cannot be read; if a policy makes no sense.
    """
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise BadRule(f"{zone!r} is not a known time zone: use an IANA name such as Europe/Berlin") from None
    try:
        CronSim(expression, EPOCH)
    except CronSimError as error:
        raise BadRule(f"the cron rule {expression!r} cannot be read: {error}") from None
    rule = Cron(expression, zone, FirePolicy(**policies))
    rule.next_after(EPOCH)
    return rule


def fires(rule: Rule, after: datetime, until: datetime) -> Iterator[datetime]:
    """Yield the fires with `after` < fire <= `until`, in order."""
    moment = rule.next_after(after)
    while moment <= until:
        yield moment
        moment = rule.next_after(moment)
