"""Two real schedulers, and the wake-ups of one."""

import os
import signal
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

from sqlalchemy import Engine, text

import jobs
import scheduler
from tests.workers import pgbouncer, rows
from tests.workers.members import Members
from workers import slots
from workers.process import Presence

TICKS = "SELECT fire_at, outcome, run_id FROM slots WHERE schedule LIKE '%.tick' ORDER BY fire_at"
SERVED = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'scheduler'"
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


def test_two_schedulers_behind_a_pooler_record_every_slot_once(
    engine: Engine, variables: dict[str, str], tmp_path: Path
) -> None:
    """PgBouncer gives them a connection of the server for one transaction at a time, and both share two of them."""
    with pgbouncer.running(variables["DATABASE_URL"], tmp_path) as pooled:
        behind = Members(tmp_path, variables | {"DATABASE_URL": pooled + "?pgbouncer=true"})
        try:
            first, second = (behind.start("tests.workers.trial_scheduler") for _ in range(2))
            rows.until(lambda: rows.one(engine, COUNT) >= 3, 60, why=first.said() + second.said())
            first.kill()
            rows.until(lambda: rows.one(engine, COUNT) >= 8, why=second.said())
            assert rows.one(engine, SERVED) <= pgbouncer.CONNECTIONS
        finally:
            behind.close()
    assert "waits for Postgres" not in first.said() + second.said()
    seconds = "SELECT extract(epoch FROM max(fire_at) - min(fire_at)) + 1 FROM slots WHERE schedule LIKE '%.tick'"
    assert rows.one(engine, COUNT) == rows.one(engine, seconds)
    assert rows.one(engine, "SELECT count(*) FROM runs WHERE job LIKE '%.tick'") == 1


def test_a_scheduler_that_freezes_in_the_middle_of_its_transaction_delays_a_fire_by_a_known_time(
    engine: Engine, variables: dict[str, str], tmp_path: Path
) -> None:
    """Postgres ends its transaction after five seconds; the others look once a second. Thawed it does nothing twice."""
    members = Members(tmp_path, variables)
    try:
        frozen = members.start("tests.workers.trial_freezing_scheduler")
        rows.until(lambda: Path(f"/proc/{frozen.pid}/stat").read_text().split()[2] == "T", why=frozen.said())
        members.start("tests.workers.trial_scheduler")
        rows.until(lambda: rows.one(engine, COUNT) >= 7)
        frozen.signal(signal.SIGCONT)
        rows.until(lambda: "waits for Postgres" in frozen.said())
        rows.until(lambda: rows.one(engine, COUNT) >= 9)
    finally:
        members.close()
    late = "SELECT max(extract(epoch FROM recorded_at - fire_at)) FROM slots WHERE schedule LIKE '%.tick'"
    assert slots.IDLE - 1 < rows.one(engine, late) < slots.IDLE + scheduler.SWEEP + 1
    seconds = "SELECT extract(epoch FROM max(fire_at) - min(fire_at)) + 1 FROM slots WHERE schedule LIKE '%.tick'"
    assert rows.one(engine, COUNT) == rows.one(engine, seconds)
    assert rows.one(engine, "SELECT count(*) FROM runs WHERE job LIKE '%.tick'") == 1


def test_the_distance_to_the_next_fire_is_measured_by_the_clock_of_the_database(engine: Engine) -> None:
    jobs.load()
    assert scheduler.declare(engine, Presence(engine, "scheduler"))
    rows.change(engine, "UPDATE schedules SET next_fire_at = now() + interval '1 h'")
    assert 3_500 < (scheduler.take(engine) or 0) < 3_600
    rows.change(engine, "UPDATE schedules SET next_fire_at = now() + interval '2 s' WHERE name = 'maintenance.prune'")
    assert 0 < (scheduler.take(engine) or 0) < 2
    rows.change(engine, "UPDATE schedules SET next_fire_at = NULL")
    assert scheduler.take(engine) is None


def test_a_scheduler_without_its_settings_ends_with_one_line(tmp_path: Path) -> None:
    members = Members(tmp_path, {"PATH": os.environ["PATH"]})
    member = members.start("scheduler")
    rows.until(lambda: not member.running)
    assert member.said() == "headrace: DATABASE_URL is missing: set it (see .env.example)\n"
    members.close()
