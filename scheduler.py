"""`python -m scheduler`: the clock. One slot row and one run for each planned fire, however many of us run.

APScheduler wakes this process at the moments the rules name; it keeps nothing. What is due is read from Postgres, under
its clock, and recorded in one transaction (see `workers.slots`). A sweep every second catches what a wake-up
missed: a schedule another process advanced, a database that was away, a clock that drifts. Nobody imports this module.
"""

from datetime import datetime

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

import jobs
from jobs import Rule
from workers import logs, slots
from workers.entry import enter, stop_signal
from workers.process import Presence

#: Seconds between two sweeps: the bound on how late a fire is recorded while a scheduler and Postgres live.
SWEEP = 1
#: Seconds between two declarations: a schedule that an older scheduler retired in a deploy comes back within these.
DECLARE = 60


class RuleTrigger(BaseTrigger):  # type: ignore[misc]
    """Lets APScheduler wake us when a rule says so.

    Args:
        rule: The rule in time.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the next fire after the previous one, or after now."""
        return self._rule.next_after(max(now, previous_fire_time or now))


def take(engine: Engine) -> None:
    """Record what is due; a database that is away is told to the log and tried again at the next sweep."""
    try:
        with engine.begin() as connection:
            fired = slots.take_due(connection)
    except SQLAlchemyError as error:
        logs.get().warning("the scheduler waits for Postgres", reason=str(error).splitlines()[0])
        return
    for slot in fired:
        log = logs.get().bind(schedule=slot.schedule, fire_at=slot.fire_at.isoformat(), late=round(slot.lateness, 3))
        log.info("slot recorded", outcome=slot.outcome, run=slot.run_id)


def declare(engine: Engine, *, retire: bool = False) -> bool:
    """Synchronise the schedules with the code; tell whether the database was there to do so."""
    try:
        with engine.begin() as connection:
            slots.declare(connection, jobs.all_jobs().values(), retire=retire)
    except SQLAlchemyError as error:
        logs.get().warning("the scheduler waits for Postgres", reason=str(error).splitlines()[0])
        return False
    return True


def clock(engine: Engine) -> BackgroundScheduler:
    """Return a clock that calls `take` at every planned fire and once a second."""
    made = BackgroundScheduler(timezone="UTC", job_defaults={"coalesce": True, "misfire_grace_time": None})
    for job in jobs.all_jobs().values():
        if job.schedule is not None:
            made.add_job(take, RuleTrigger(job.schedule), args=[engine], id=job.name)
    made.add_job(take, IntervalTrigger(seconds=SWEEP), args=[engine], id="sweep")
    made.add_job(declare, IntervalTrigger(seconds=DECLARE), args=[engine], id="declare")
    return made


def main() -> None:
    """Keep time until stopped."""
    stopping = stop_signal()
    with enter("scheduler") as runtime:
        presence = Presence(runtime.machinery, "scheduler").start(stopping)
        while not stopping.is_set() and not declare(runtime.machinery, retire=True):
            stopping.wait(1.0)
        ticking = clock(runtime.machinery)
        ticking.start()
        stopping.wait()
        ticking.shutdown(wait=True)
        presence.stop()


if __name__ == "__main__":
    main()
