"""Two real schedulers, and the wake-ups of one."""

import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from sqlalchemy import Engine, text

import jobs
import scheduler
from jobs import cron
from tests.workers import rows
from tests.workers.members import Members

TICKS = "SELECT fire_at, outcome, run_id FROM slots WHERE schedule LIKE '%.tick' ORDER BY fire_at"
COUNT = "SELECT count(*) FROM slots WHERE schedule LIKE '%.tick'"


def test_two_schedulers_record_every_slot_once_although_one_is_killed(
    engine: Engine, variables: dict[str, str], tmp_path: Path
) -> None:
    members = Members(tmp_path, variables)
    try:
        first, second = (members.start("tests.workers.trial_scheduler") for _ in range(2))
        alive = "SELECT count(*) FROM processes WHERE kind = 'scheduler'"
        rows.until(lambda: rows.one(engine, alive) == 2, why=first.said() + second.said())
        rows.until(lambda: rows.one(engine, COUNT) >= 3)
        first.kill()
        rows.until(lambda: rows.one(engine, COUNT) >= 6)
        second.stop(15)
    finally:
        members.close()
    with engine.connect() as connection:
        found = connection.execute(text(TICKS)).all()
    gaps = [after.fire_at - before.fire_at for before, after in pairwise(found)]
    assert gaps == [timedelta(seconds=1)] * (len(found) - 1)
    # Which of them got the run is known only where a scheduler was quick enough to meet each fire alone.
    assert Counter(slot.outcome for slot in found) == {"ran": 1, "coalesced": len(found) - 1}
    assert {slot.run_id for slot in found} == {rows.one(engine, "SELECT id FROM runs WHERE job LIKE '%.tick'")}


def test_a_wake_up_is_never_in_the_past() -> None:
    """Within the hour that happens twice the next fire is tomorrow's, not the one an hour ago."""
    trigger = scheduler.RuleTrigger(cron("30 1 * * *", zone="America/New_York"))
    again = datetime(2027, 11, 7, 6, 10, tzinfo=UTC)
    assert trigger.get_next_fire_time(None, again) == datetime(2027, 11, 8, 6, 30, tzinfo=UTC)
    late = again + timedelta(days=3)
    assert trigger.get_next_fire_time(again, late) > late


def test_every_schedule_has_a_wake_up_and_a_sweep_is_the_net_under_them(engine: Engine) -> None:
    jobs.load()
    ticking = scheduler.clock(engine)
    names = {job.id for job in ticking.get_jobs()}
    assert "sweep" in names
    assert "maintenance.prune" in names


def test_a_scheduler_without_its_settings_ends_with_one_line(tmp_path: Path) -> None:
    members = Members(tmp_path, {"PATH": os.environ["PATH"]})
    member = members.start("scheduler")
    rows.until(lambda: not member.running)
    assert member.said() == "headrace: DATABASE_URL is missing: set it (see .env.example)\n"
    members.close()
