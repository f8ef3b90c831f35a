"""A schedule that is due: the rule of its row, the fires that were planned until now, and what they become.

What its row says is what fires, so schedulers of two releases that run side by side agree. The policy of a declared
schedule is in the code beside its rule; an operator's schedule has its own in the row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import jobs
from jobs import BadArguments, BadRule, FirePolicy, Job, Overlap, read_missed, read_rule
from jobs._fire_policy import outcomes
from jobs._schedule import newest
from workers.moments import exactly, span

#: Fires of one schedule that are recorded at once; after a longer downtime the earlier ones have no slots.
MOST_MISSED = 10_000
#: What a planned fire becomes that has a run of its own.
WANT_A_RUN = frozenset({"ran", "caught_up"})


class Recorded(NamedTuple):
    """A slot."""

    fire_at: datetime
    outcome: str
    run_id: int | None = None
    note: str | None = None

    @property
    def wants(self) -> bool:
        """Whether it needs a run."""
        return self.outcome in WANT_A_RUN


@dataclass(frozen=True, eq=False)
class Plan:
    """A due schedule with the fires that nobody has recorded yet."""

    name: str
    job: Job[Any]
    #: As its job stores them.
    args: dict[str, Any]
    policy: FirePolicy
    zone: str
    now: datetime
    #: Oldest first, at least one.
    planned: list[datetime]
    #: The fire after those.
    then: datetime | None
    #: Why its job takes no run of it.
    refusal: str | None
    #: Until when fires are skipped because it is paused, and the words for that; None while it is not.
    paused: tuple[datetime | None, str] | None
    #: The first fire, if those from it to `planned` have no slots.
    unrecorded: datetime | None

    def became(self, known: Iterable[datetime]) -> list[Recorded]:
        """Return the slots of the planned fires that are not known yet, if no run is in the way."""
        fresh = sorted(set(self.planned).difference(known))
        slots = {moment: slot for moment in fresh if (slot := self._without_run(moment)) is not None}
        left = [moment for moment in fresh if moment not in slots]
        wanted = zip(left, outcomes(left, self.now, self.policy.missed), strict=True)
        slots |= {
            moment: Recorded(moment, outcome, note=self._note(moment, outcome, left)) for moment, outcome in wanted
        }
        return self._with_unrecorded([slots[moment] for moment in fresh])

    def starts(self, moment: datetime) -> datetime | None:
        """Return when the run of a fire is due; None for at once."""
        return max(self.policy.starts(self.name, moment), self.now) if self.policy.jitter else None

    def _without_run(self, moment: datetime) -> Recorded | None:
        if self.paused is not None and (self.paused[0] is None or moment < self.paused[0]):
            return Recorded(moment, "skipped_paused", note=self.paused[1])
        if self.policy.excludes(moment, self.zone):
            return Recorded(moment, "skipped_calendar", note="its calendar leaves this day out")
        if self.refusal is not None:
            return Recorded(moment, "refused", note=self.refusal)
        return None

    def _note(self, moment: datetime, outcome: str, planned: Sequence[datetime]) -> str | None:
        if outcome == "ran":
            return None
        late = span((self.now - moment).total_seconds())
        match outcome:
            case "coalesced":
                return f"nobody recorded it in time; the fire of {exactly(planned[-1])} does its work"
            case "missed":
                return f"nobody recorded it for {late}, and its policy for that is: {self.policy.missed.text}"
            case _:
                return f"nobody recorded it for {late}"

    def _with_unrecorded(self, slots: list[Recorded]) -> list[Recorded]:
        if self.unrecorded is None or not slots:
            return slots
        more = f"the fires from {exactly(self.unrecorded)} to this one have no slots of their own"
        note = f"{slots[0].note}; {more}" if slots[0].note else more
        return [slots[0]._replace(note=note), *slots[1:]]


def look(row: Any) -> Plan:
    """Return a schedule as its row and the code have it.

    Args:
        row: Of `schedules`, with the database's `now`.

    Raises:
        BadRule: If its rule or its policy cannot be read.
        UnknownJob: If the code has no such job.
    """
    job = jobs.find(row.job)
    declared = job.schedule if row.declared else None
    rule = (
        declared
        if declared and (declared.text, declared.zone) == (row.rule, row.zone)
        else read_rule(row.rule, row.zone)
    )
    policy = declared.policy if declared else _policy(row)
    planned, then = newest(rule, row.next_fire_at, row.now, max(MOST_MISSED, policy.missed.most) + 1)
    args, refusal = _accepted(job, row.args)
    paused = (row.paused_until, _pause(row)) if row.paused else None
    skipped = None if planned[0] == row.next_fire_at else row.next_fire_at
    return Plan(row.name, job, args, policy, rule.zone, row.now, planned, then, refusal, paused, skipped)


def _policy(row: Any) -> FirePolicy:
    try:
        return FirePolicy(read_missed(row.missed), Overlap(row.overlap), jitter=row.jitter)
    except ValueError as error:
        raise BadRule(f"its policy cannot be read: {error}") from None


def _accepted(job: Job[Any], args: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    try:
        return (job.accept(args) if args else args), None
    except BadArguments as error:
        return args, str(error)


def _pause(row: Any) -> str:
    return f"{row.paused_by} had paused it" + (f": {row.reason}" if row.reason else "")
