"""`python -m scheduler`: the clock. One slot row and one run for each planned fire, however many of us run.

APScheduler wakes this process; it keeps nothing. Each look at Postgres records in one transaction what is due under
its clock (see `workers.slots`), and asks it in how many seconds the next fire comes: so a schedule that an operator has
just made wakes us too, and our own clock may be wrong. A sweep every second catches what a wake-up missed: a database
that was away, a schedule whose scheduler died in the middle. Nobody imports this module.
"""

from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

import jobs
from workers import declaring, logs, slots
from workers.entry import enter, stop_signal
from workers.process import Presence
from workers.slots import Fired

#: Seconds between two sweeps: the bound on how late a fire is recorded while a scheduler and Postgres live.
SWEEP = 1.0
#: Seconds between two looks while fires follow each other closely: they are recorded in sets.
GATHER = 0.02
#: Seconds between two declarations, for what another scheduler did in a deploy.
DECLARE = 60
#: Fires of one look that have a line each in the log.
TOLD = 20


class Clock:
    """Looks when something is due, and at least once a second.

    Args:
        engine: The database.
        presence: This process among the others.
    """

    def __init__(self, engine: Engine, presence: Presence) -> None:
        self._engine = engine
        self._ticking = BackgroundScheduler(
            timezone="UTC", job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1}
        )
        self._ticking.add_job(self._look, IntervalTrigger(seconds=SWEEP), id="look", next_run_time=datetime.now(UTC))
        self._ticking.add_job(declare, IntervalTrigger(seconds=DECLARE), args=[engine, presence], id="declare")

    def start(self) -> None:
        """Begin to look."""
        self._ticking.start()

    def stop(self) -> None:
        """End, after the look that is under way."""
        self._ticking.shutdown(wait=True)

    def _look(self) -> None:
        ahead = take(self._engine)
        if ahead is not None and ahead < SWEEP and self._ticking.running:
            self._ticking.modify_job("look", next_run_time=datetime.now(UTC) + timedelta(seconds=max(ahead, GATHER)))


def take(engine: Engine) -> float | None:
    """Record what is due; return the seconds until the next fire, by the database's clock, if there is one.

    A database that is away is told to the log and tried again at the next sweep.
    """
    try:
        while _take_some(engine):
            pass
        with engine.connect() as connection:
            return slots.seconds_to_next(connection)
    except SQLAlchemyError as error:
        logs.get().warning("the scheduler waits for Postgres", reason=str(error).splitlines()[0])
        return None


def _take_some(engine: Engine) -> bool:
    """Record what is due and fits into one transaction; tell whether there may be more."""
    with engine.begin() as connection:
        fired = slots.take_due(connection)
    _tell(fired)
    return bool(fired)


def _tell(fired: list[Fired]) -> None:
    for slot in fired[:TOLD]:
        log = logs.get().bind(schedule=slot.schedule, fire_at=slot.fire_at.isoformat(), late=round(slot.lateness, 3))
        log.info("slot recorded", outcome=slot.outcome, run=slot.run_id)
    if len(fired) > TOLD:
        latest = max(slot.lateness for slot in fired)
        logs.get().info("more slots recorded", schedules=len(fired) - TOLD, late=round(latest, 3))


def declare(engine: Engine, presence: Presence) -> bool:
    """Bring the schedules in line with the code; tell whether the database was there to do so."""
    try:
        with engine.begin() as connection:
            conflicts = declaring.declare(connection, jobs.all_jobs().values(), presence.id)
    except SQLAlchemyError as error:
        logs.get().warning("the scheduler waits for Postgres", reason=str(error).splitlines()[0])
        return False
    for name in conflicts:
        logs.get().warning("the code has changed a rule that an operator replaced", schedule=name, fires="as replaced")
    return True


def _scheduled() -> list[str]:
    return [job.name for job in jobs.all_jobs().values() if job.schedule is not None]


def main() -> None:
    """Keep time until stopped."""
    stopping = stop_signal()
    with enter("scheduler") as runtime:
        presence = Presence(runtime.machinery, "scheduler", jobs=_scheduled()).start(stopping)
        while not stopping.is_set() and not declare(runtime.machinery, presence):
            stopping.wait(1.0)
        clock = Clock(runtime.machinery, presence)
        clock.start()
        stopping.wait()
        clock.stop()
        presence.stop()


if __name__ == "__main__":
    main()
