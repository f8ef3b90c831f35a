"""Schedules as people see them: the list, the fires ahead and behind, and what became of the one at four o'clock.

Each planned fire has a slot, so the answer is nearly always written there. Where there is no slot, the rule and the
audit say why: it was not planned then, the schedule was made or changed later, or nobody has recorded it yet.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, text

import jobs
from jobs import BadRule, FirePolicy, Rule
from workers.actions import Refused
from workers.moments import exactly, span

#: Schedules listed at most.
MOST = 100_000


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule with its next fire and the last slot that was recorded."""

    name: str
    rule: str
    zone: str
    #: Empty when it never fires again.
    next_fire_at: datetime | None
    paused_at: datetime | None
    paused_by: str | None
    reason: str | None
    paused_until: datetime | None
    retired_at: datetime | None
    #: The newest slot; all empty when it never fired.
    last_fire_at: datetime | None
    last_outcome: str | None
    last_run_id: int | None
    last_run_state: str | None
    #: The job that it starts, if it is not the one of its name.
    job: str | None = None
    #: What the code declares; empty when an operator made it.
    declared_rule: str | None = None
    declared_zone: str | None = None
    #: What the code declared when an operator gave it another rule.
    replaced_rule: str | None = None
    changed_by: str | None = None
    #: An operator and the code have both changed its rule: somebody has to choose.
    in_conflict: bool = False
    missed: str = "once"
    overlap: str = "join"
    #: Seconds.
    jitter: float = 0


SCHEDULES = text("""
    SELECT s.name, s.job, s.rule, s.zone, s.next_fire_at,
           s.paused_at, s.paused_by, s.reason, s.paused_until, s.retired_at,
           s.declared_rule, s.declared_zone, s.replaced_rule, s.changed_by, s.missed, s.overlap, s.jitter,
           coalesce((s.replaced_rule, s.replaced_zone) <> (s.declared_rule, s.declared_zone), false) AS in_conflict,
           last.fire_at AS last_fire_at, last.outcome AS last_outcome, last.run_id AS last_run_id,
           runs.state AS last_run_state
    FROM schedules s
    LEFT JOIN LATERAL (
        SELECT fire_at, outcome, run_id FROM slots WHERE schedule = s.name ORDER BY fire_at DESC LIMIT 1
    ) AS last ON true
    LEFT JOIN runs ON runs.id = last.run_id
    WHERE CAST(:only AS text) IS NULL OR s.name = :only
    ORDER BY s.retired_at IS NOT NULL, s.name
    LIMIT :most
""")

SLOTS = text("""
    SELECT s.id, s.schedule, s.fire_at, s.outcome, s.run_id, s.note, s.recorded_at, r.state AS run_state
    FROM slots s LEFT JOIN runs r ON r.id = s.run_id
    WHERE (CAST(:name AS text) IS NULL OR s.schedule = :name) AND (CAST(:before AS bigint) IS NULL OR s.id < :before)
    ORDER BY s.id DESC LIMIT :most
""")
SLOT = text("""
    SELECT s.fire_at, s.outcome, s.run_id, s.note, s.recorded_at, r.state, r.error FROM slots s
    LEFT JOIN runs r ON r.id = s.run_id
    WHERE s.schedule = :name AND s.fire_at >= :begin AND s.fire_at < :end ORDER BY s.fire_at LIMIT 1
""")
CHANGED = text("""
    SELECT at, actor, action FROM audit
    WHERE target = :name AND action = ANY(:actions) AND at > :moment
    ORDER BY at LIMIT 1
""")
#: What the audit says of a schedule, for a sentence.
CHANGES = {
    "schedules add": "added it",
    "schedules change": "changed its rule",
    "schedules return": "brought it back",
    "schedules retire": "retired it",
    "schedules remove": "took it away",
}
#: What an outcome means, for a sentence.
WORDS = {
    "ran": "it ran as run {run}",
    "caught_up": "it was late, and was made up for by run {run}",
    "coalesced": "run {run} did its work too",
    "missed": "it was missed, and not made up for",
    "skipped_paused": "it was skipped",
    "skipped_calendar": "it was skipped",
    "refused": "its job refused it",
    "fired_by_hand": "it was fired by hand as run {run}",
}


@dataclass(frozen=True, slots=True)
class FireView:
    """A fire to come."""

    fire_at: datetime
    #: On the wall of the schedule's zone.
    local: str
    #: What is special about it.
    note: str | None


@dataclass(frozen=True, slots=True)
class SlotView:
    """A fire that was recorded, with its one outcome."""

    id: int
    schedule: str
    fire_at: datetime
    outcome: str
    run_id: int | None
    #: Why it became that, where the outcome alone does not say it.
    note: str | None
    recorded_at: datetime
    run_state: str | None

    @property
    def late(self) -> float:
        """Seconds between its time and the recording."""
        return max(0.0, (self.recorded_at - self.fire_at).total_seconds())


@dataclass(frozen=True)
class Answer:
    """What became of a fire."""

    schedule: str
    moment: datetime
    #: For people.
    sentence: str
    outcome: str | None = None
    run_id: int | None = None
    note: str | None = None
    recorded_at: datetime | None = None


def schedules(connection: Connection, most: int = MOST) -> list[ScheduleView]:
    """Return every schedule by name, retired ones last."""
    return [ScheduleView(**row) for row in connection.execute(SCHEDULES, {"most": most, "only": None}).mappings()]


def schedule(connection: Connection, name: str) -> ScheduleView | None:
    """Return one schedule, if there is such a row."""
    row = connection.execute(SCHEDULES, {"most": 1, "only": name}).mappings().one_or_none()
    return ScheduleView(**row) if row is not None else None


def slots(
    connection: Connection, name: str | None = None, *, before: int | None = None, most: int = 50
) -> list[SlotView]:
    """Return recorded slots, the newest first; all schedules', or one's; only those before an id."""
    rows = connection.execute(SLOTS, {"name": name, "before": before, "most": most}).mappings()
    return [SlotView(**row) for row in rows]


def rule_of(found: ScheduleView) -> Rule:
    """Return the rule by which a schedule fires, with the days that its code leaves out."""
    known = jobs.names().get(found.name)
    declared = known.schedule if known else None
    return jobs.read_rule(found.rule, found.zone, declared.policy if declared else FirePolicy())


def ahead(rule: Rule, now: datetime) -> Iterator[FireView]:
    """Yield the fires after a moment, without end unless the rule has one."""
    moment, zone = rule.next_after(now), ZoneInfo(rule.zone)
    before = now.astimezone(zone)
    while moment is not None:
        local = moment.astimezone(zone)
        notes = {
            "the clock has moved": local.utcoffset() != before.utcoffset(),
            "left out": rule.policy.excludes(moment, rule.zone),
        }
        note = ", ".join(word for word, so in notes.items() if so) or None
        yield FireView(moment, local.strftime("%a %Y-%m-%d %H:%M:%S %Z"), note)
        moment, before = rule.next_after(moment), local


def besides(found: ScheduleView) -> Iterator[str]:
    """Yield what is out of the ordinary about a schedule."""
    if found.retired_at:
        yield "retired"
    if found.paused_at:
        until = f" until {exactly(found.paused_until)}" if found.paused_until else ""
        yield f"paused by {found.paused_by}{until}"
    declared = f"{found.declared_rule} ({found.declared_zone})"
    if found.declared_rule is None:
        yield f"made by {found.changed_by}"
    elif found.in_conflict:
        yield f"changed by {found.changed_by}, and since by the code to {declared}: choose"
    elif found.replaced_rule is not None:
        yield f"changed by {found.changed_by}, declared as {declared}"
    if (found.missed, found.overlap, found.jitter) != ("once", "join", 0):
        jitter = f", jitter: {found.jitter:g} s" if found.jitter else ""
        yield f"missed: {found.missed}, overlap: {found.overlap}{jitter}"


def explain(connection: Connection, name: str, typed: str) -> Answer:
    """Say what became of the fire of a schedule at a moment, or why there was none.

    Args:
        connection: The database.
        name: The schedule.
        typed: The moment, on the wall of the schedule's zone unless it says its own distance from UTC.

    Raises:
        Refused: If there is no such schedule, or the moment cannot be read.
    """
    found = schedule(connection, name)
    if found is None:
        raise Refused(f"there is no schedule called {name!r}: `headrace schedules list` shows all")
    moment = _moment(typed, found.zone)
    asked = {"name": name, "begin": moment, "end": moment + timedelta(seconds=1 if moment.second else 60)}
    slot = connection.execute(SLOT, asked).one_or_none()
    if slot is None:
        return Answer(
            name, moment, f"{name} has no slot at {_told(moment, found)}: {_absence(connection, found, moment)}"
        )
    sentence = f"{name}, {_told(slot.fire_at, found)}: {_words(slot)}"
    return Answer(name, slot.fire_at, sentence, slot.outcome, slot.run_id, slot.note, slot.recorded_at)


def _moment(typed: str, zone: str) -> datetime:
    try:
        return jobs.at(typed, zone=zone).moment
    except BadRule as error:
        raise Refused(str(error)) from None


def _told(moment: datetime, found: ScheduleView) -> str:
    local = moment.astimezone(ZoneInfo(found.zone))
    return local.strftime("%a %Y-%m-%d %H:%M:%S %Z") if found.zone != "UTC" else exactly(moment)


def _words(slot: Any) -> str:
    words = WORDS[slot.outcome].format(run=slot.run_id)
    note = f": {slot.note}" if slot.note else ""
    ended = f"; that run is {slot.state}" if slot.state else ""
    error = f" ({slot.error})" if slot.error and slot.state == "dead" else ""
    late = (slot.recorded_at - slot.fire_at).total_seconds()
    return f"{words}{note}{ended}{error}" + (f"; recorded {span(late)} late" if late >= 1 else "")


def _absence(connection: Connection, found: ScheduleView, moment: datetime) -> str:
    rule = jobs.read_rule(found.rule, found.zone)
    by_its_rule = f"by its rule ({found.rule}, {found.zone})"
    first = rule.next_after(moment - timedelta(microseconds=1))
    changed = connection.execute(
        CHANGED, {"name": found.name, "moment": moment, "actions": list(CHANGES)}
    ).one_or_none()
    if changed is not None:
        return f"{changed.actor} {CHANGES[changed.action]} at {exactly(changed.at)}, after that"
    if found.retired_at is not None and found.retired_at <= moment:
        return f"it fires no more since {exactly(found.retired_at)}, when it was retired or taken away"
    if first != moment:
        return f"it is not planned then; {by_its_rule} the next fire after that is " + _named(first)
    if found.next_fire_at is None or found.next_fire_at > moment:
        return "it fired longer ago than slots are kept, or when this schedule was not there"
    now: datetime = connection.execute(text("SELECT now()")).scalar_one()
    if moment > now:
        return f"it lies ahead, in {span((moment - now).total_seconds())}"
    return "nobody has recorded it yet: is a scheduler alive (`headrace doctor`) whose code has its job?"


def _named(moment: datetime | None) -> str:
    return exactly(moment) if moment else "none"
