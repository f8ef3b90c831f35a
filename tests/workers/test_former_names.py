"""A job that was renamed, and a job that is gone: their runs are kept, and executed as soon as somebody knows them."""

from typing import Any

import pytest
from sqlalchemy import Engine, select, text

import jobs
from jobs import Context, Job, every, job
from jobs import _job as registry
from models import Run
from tests.workers import rows
from tests.workers.conftest import Working
from workers import actions, declaring, gates
from workers.actions import HOLDS
from workers.admission import Admission
from workers.life import look, why
from workers.slots import take_due

OLD, NEW = "mill.grind", "test_former_names.crush"
WORDS = "finds no such job in the code of any live worker: it waits for a worker that knows it"


def crush(context: Context, *, grain: str = "rye") -> dict[str, Any]:
    """Crush grain."""
    return {"grain": grain, "job": context.job}


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that are recorded here are forgotten here."""
    jobs.load()
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))


def renamed(**options: Any) -> Job[...]:
    return job(queue="trial", formerly=(OLD,), **options)(crush)


def enqueue_old(engine: Engine, **columns: Any) -> int:
    """Return a run that was stored before the job got its name of today."""
    values = {"key": None, "schedule": None} | columns
    statement = """INSERT INTO runs (job, queue, args, max_attempts, key, schedule)
        VALUES ('mill.grind', 'trial', '{"grain": "oats"}', 3, :key, :schedule) RETURNING id"""
    return int(rows.one(engine, statement, **values))


def told(engine: Engine, run_id: int) -> str:
    with engine.connect() as connection:
        return why(look(connection, run_id))


@pytest.mark.usefixtures("relaying")
def test_a_run_under_a_former_name_is_executed_by_the_job(engine: Engine, working: Working) -> None:
    run_id = enqueue_old(engine)
    renamed()
    with working():
        rows.until(lambda: rows.run_row(engine, run_id).finished_at is not None)
    row = rows.run_row(engine, run_id)
    assert (row.state, row.job, row.result) == ("succeeded", OLD, {"grain": "oats", "job": NEW})


@pytest.mark.usefixtures("relaying")
def test_a_run_whose_job_is_gone_is_kept_and_said_so_and_goes_on_when_the_job_returns(
    engine: Engine, working: Working
) -> None:
    run_id = enqueue_old(engine)
    with working():
        rows.until(lambda: told(engine, run_id).startswith(WORDS))
        # Also after its message was refused, and found missing.
        rows.until(lambda: rows.state(engine, run_id) == "queued")
        rows.change(engine, "UPDATE runs SET queued_at = now() - interval '1 min'")
        rows.until(lambda: rows.run_row(engine, run_id).pushes > 1)
        assert told(engine, run_id).startswith(WORDS)
        assert rows.run_row(engine, run_id).attempt == 0
    renamed()
    with working():
        rows.until(lambda: rows.state(engine, run_id) == "succeeded")


@pytest.mark.parametrize("asked", [OLD, NEW])
def test_a_selection_of_a_job_finds_its_runs_under_every_name(engine: Engine, asked: str) -> None:
    crushing = renamed()
    old = enqueue_old(engine)
    with engine.begin() as connection:
        new = crushing.enqueue(connection)
        chosen = select(Run.id).where(actions.Selection(job=asked).condition()).order_by(Run.id)
        assert list(connection.execute(chosen).scalars()) == [old, new]


def test_a_renamed_job_shares_its_limits_with_runs_under_its_former_name(engine: Engine) -> None:
    declared = renamed(key="grain", ordered=True)
    rows.change(engine, "INSERT INTO queues (name) VALUES ('trial')")
    first = enqueue_old(engine, key="oats")
    with engine.begin() as connection:
        second = declared.enqueue(connection, grain="oats")
        other = declared.enqueue(connection, grain="rye")
    assert take(engine) == {first, other}
    rows.change(
        engine, "UPDATE runs SET state = 'waiting', attempt = 1, due_at = now() + interval '1 h' WHERE id = :i", i=first
    )
    assert take(engine) == set()
    rows.change(engine, "UPDATE runs SET state = 'succeeded' WHERE id = :id", id=first)
    assert take(engine) == {second}


def take(engine: Engine) -> set[int]:
    with engine.begin() as connection:
        return {due.run_id for due in Admission().take(connection, gates.read(connection), {"trial": 10})}


def declare(engine: Engine) -> None:
    with engine.begin() as connection:
        declaring.declare(connection, jobs.all_jobs().values())


def schedules(engine: Engine, columns: str) -> list[tuple[Any, ...]]:
    statement = f"SELECT {columns} FROM schedules WHERE name IN (:old, :new) ORDER BY name"
    with engine.connect() as connection:
        return list(map(tuple, connection.execute(text(statement), {"old": OLD, "new": NEW})))


RULE = every(hours=1)
OLD_SCHEDULE = f"""
    INSERT INTO schedules (name, rule, zone, next_fire_at)
    VALUES (:name, '{RULE.text}', '{RULE.zone}', now() - interval '1 min')
"""
OLD_SLOT = "INSERT INTO slots (schedule, fire_at, outcome) VALUES (:name, now() - interval '1 h', 'ran')"


def test_a_schedule_keeps_its_pause_its_next_fire_and_its_history_when_its_job_is_renamed(engine: Engine) -> None:
    rows.change(engine, OLD_SCHEDULE, name=OLD)
    rows.change(engine, OLD_SLOT, name=OLD)
    with engine.begin() as connection:
        actions.pause(connection, HOLDS["schedules"], OLD, by="kim")
    next_fire_at = rows.one(engine, "SELECT next_fire_at FROM schedules WHERE name = :name", name=OLD)
    renamed(schedule=RULE)
    for _ in range(2):
        declare(engine)
        assert schedules(engine, "name, next_fire_at, paused_by, retired_at") == [(NEW, next_fire_at, "kim", None)]
    assert rows.one(engine, "SELECT schedule FROM slots") == NEW


def test_an_old_scheduler_that_declares_the_former_name_again_leaves_one_schedule_in_the_end(engine: Engine) -> None:
    renamed(schedule=RULE)
    declare(engine)
    rows.change(engine, OLD_SCHEDULE, name=OLD)
    rows.change(engine, OLD_SLOT, name=OLD)
    rows.change(engine, "INSERT INTO slots (schedule, fire_at, outcome) SELECT :n, fire_at, 'ran' FROM slots", n=NEW)
    declare(engine)
    assert schedules(engine, "name") == [(NEW,)]
    assert rows.one(engine, "SELECT count(*) FROM slots WHERE schedule = :name", name=NEW) == 1


def test_a_fire_is_folded_into_the_unfinished_run_of_the_former_name(engine: Engine) -> None:
    rows.change(engine, OLD_SCHEDULE, name=OLD)
    run_id = enqueue_old(engine, schedule=OLD)
    renamed(schedule=RULE)
    declare(engine)
    with engine.begin() as connection:
        (fired,) = [fired for fired in take_due(connection) if fired.schedule == NEW]
    assert (fired.outcome, fired.run_id) == ("coalesced", run_id)


def test_a_schedule_is_fired_by_hand_under_a_former_name(engine: Engine) -> None:
    renamed(schedule=RULE)
    declare(engine)
    with engine.begin() as connection:
        run_id = actions.fire(connection, OLD, by="kim")
    row = rows.run_row(engine, run_id)
    assert (row.job, row.schedule) == (NEW, NEW)
