"""Batches: counted by Postgres, finished once, whoever ends the last member."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session, sessionmaker

from jobs import BadArguments, Unique, batch, job
from tests.workers import rows
from tests.workers.conftest import Working
from tests.workers.test_cli import ask, environment  # noqa: F401 - fixtures
from tests.workers.trial_jobs import effect, fail, nothing, serial, shared
from workers import actions, ledger, rescue
from workers.actions import CANCEL, DISCARD, RETRY, Move, Selection
from workers.ledger import Ending


def write(engine: Engine, members: int = 3) -> tuple[int, list[int]]:
    """Write a batch with both callbacks; return its id and those of its members."""
    with engine.begin() as connection, batch(connection, "prices") as made:
        ids = made.add_many(effect, [{"key": str(number)} for number in range(members)])
        made.on_success(effect, key="all succeeded")
        made.on_finish(serial, sku="all ended", number=1)
    return made.id, ids


def end(engine: Engine, state: str, *run_ids: int) -> None:
    with engine.begin() as connection:
        held = ledger.claim(connection, run_ids, rows.enter(connection), [effect.name])
        outcome = {"succeeded": "succeeded", "cancelled": "cancelled"}.get(state, "failed")
        ledger.finish(connection, [Ending(run.run_id, run.attempt, state=state, outcome=outcome) for run in held])


def move(engine: Engine, kind: Move, *run_ids: int) -> None:
    with engine.begin() as connection:
        actions.move(connection, kind, Selection(ids=run_ids), by="ada")


def row(engine: Engine, number: int) -> Any:
    with engine.connect() as connection:
        return connection.execute(text("SELECT * FROM batches WHERE id = :id"), {"id": number}).one()


def called(engine: Engine) -> list[str]:
    """Return the callbacks that were written."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT args FROM runs WHERE batch_id IS NULL ORDER BY id")).scalars()
        return [args.get("key") or args["sku"] for args in found]


@pytest.mark.usefixtures("relaying")
def test_a_batch_is_worked_off_and_calls_back_when_all_have_succeeded(
    engine: Engine, sessions: sessionmaker[Session], working: Working
) -> None:
    with sessions.begin() as session, batch(session, "prices") as made:
        made.add_many(effect, [{"key": str(number)} for number in range(200)])
        made.add(shared, tenant="a")
        made.add(fail, times=1)
        made.on_success(effect, key="all succeeded")
    with working(threads=4), working(threads=4):
        rows.until(lambda: rows.unfinished(engine) == 0)
    found = row(engine, made.id)
    assert (found.total, found.succeeded, found.dead, found.cancelled) == (202, 202, 0, 0)
    assert rows.one(engine, "SELECT count(*) FROM effects WHERE key = 'all succeeded'") == 1
    callback = rows.run_row(engine, found.success_run_id)
    assert callback.created_at >= rows.one(engine, "SELECT max(started_at) FROM runs WHERE batch_id = :id", id=made.id)


def test_callbacks_come_with_the_last_member_and_not_before(engine: Engine) -> None:
    number, ids = write(engine)
    end(engine, "succeeded", *ids[:2])
    assert called(engine) == []
    end(engine, "succeeded", ids[2])
    assert sorted(called(engine)) == ["all ended", "all succeeded"]
    callback = rows.run_row(engine, row(engine, number).finish_run_id)
    assert (callback.job, callback.key, callback.max_attempts) == (serial.name, "all ended", 2)


def test_a_failed_batch_finishes_and_succeeds_once_its_dead_member_was_run_again(engine: Engine) -> None:
    number, ids = write(engine)
    end(engine, "succeeded", *ids[:2])
    end(engine, "dead", ids[2])
    assert called(engine) == ["all ended"]
    first = row(engine, number)
    move(engine, RETRY, ids[2])
    assert (row(engine, number).dead, row(engine, number).finished_at) == (0, first.finished_at)
    end(engine, "dead", ids[2])
    move(engine, RETRY, ids[2])
    end(engine, "succeeded", ids[2])
    assert called(engine) == ["all ended", "all succeeded"]
    move(engine, RETRY, ids[0])
    end(engine, "succeeded", ids[0])
    assert called(engine) == ["all ended", "all succeeded"]


@pytest.mark.parametrize("how", ["cancel", "rescue", "discard", "job"])
def test_the_last_member_may_end_in_any_way(engine: Engine, how: str) -> None:
    number, ids = write(engine)
    end(engine, "succeeded", *ids[:2])
    if how == "cancel":
        move(engine, CANCEL, ids[2])
    elif how == "job":
        end(engine, "cancelled", ids[2])
    elif how == "discard":
        end(engine, "dead", ids[2])
        move(engine, DISCARD, ids[2])
    else:
        lose(engine, ids[2])
    assert called(engine) == ["all ended"]
    found = row(engine, number)
    assert (found.succeeded, found.dead + found.cancelled) == (2, 1)
    assert found.dead == (how == "rescue")


def lose(engine: Engine, run_id: int) -> None:
    with engine.begin() as connection:
        process = rows.enter(connection)
        ledger.claim(connection, [run_id], process, [effect.name])
        connection.execute(text("UPDATE runs SET deaths = 2 WHERE id = :id"), {"id": run_id})
        connection.execute(text("UPDATE processes SET stopped_at = now() WHERE id = :id"), {"id": process})
        assert rescue.take_back(connection) == 1


def test_two_workers_that_end_the_last_two_members_at_one_moment_call_back_once(engine: Engine) -> None:
    """The second one waits for the first one's commit and then sees its count."""
    number, ids = write(engine, members=2)

    def finish(connection: Connection, run_id: int) -> None:
        (held,) = ledger.claim(connection, [run_id], rows.enter(connection), [effect.name])
        ledger.finish(connection, [Ending(run_id, held.attempt, state="succeeded", outcome="succeeded")])

    def alone(run_id: int) -> None:
        with engine.begin() as connection:
            finish(connection, run_id)

    with ThreadPoolExecutor() as pool, engine.begin() as connection:
        finish(connection, ids[0])
        other = pool.submit(alone, ids[1])
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        rows.until(lambda: rows.one(engine, waits) == 1)
        connection.commit()
        other.result(20)
    assert row(engine, number).succeeded == 2
    assert sorted(called(engine)) == ["all ended", "all succeeded"]


def test_a_batch_without_members_has_succeeded_when_it_is_written(engine: Engine) -> None:
    number, _ = write(engine, members=0)
    assert sorted(called(engine)) == ["all ended", "all succeeded"]
    assert row(engine, number).finished_at is not None


def test_a_caller_that_rolls_back_leaves_no_batch(engine: Engine) -> None:
    with engine.connect() as connection:
        with batch(connection, "prices") as made:
            made.add(effect, key="a")
        connection.rollback()
    assert rows.one(engine, "SELECT (SELECT count(*) FROM batches) + (SELECT count(*) FROM runs)") == 0


def test_a_member_that_met_its_like_is_not_counted(engine: Engine) -> None:
    with engine.begin() as connection, batch(connection, "prices") as made:
        first = made.add(effect.options(unique_key="k"), key="a")
        assert made.add(effect.options(unique_key="k"), key="b") == first
    assert row(engine, made.id).total == 1


@job(queue="trial", unique=Unique())
def unique(context: object) -> None:
    """Stand for itself."""


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda made: made.on_success(effect, ky="a"), "argument 'key'"),
        (lambda made: made.on_success(unique), "a callback is written once"),
        (lambda made: made.add(effect, key=3), "argument 'key'"),
    ],
)
def test_what_a_batch_is_given_is_judged_at_once(engine: Engine, step: Callable[[Any], None], words: str) -> None:
    with pytest.raises(BadArguments, match=words), engine.begin() as connection, batch(connection, "x") as made:
        step(made)


def test_a_batch_takes_no_callback_after_its_block(engine: Engine) -> None:
    with engine.begin() as connection:
        with batch(connection, "x") as made:
            pass
        with pytest.raises(BadArguments, match="is complete: say its callbacks inside its block"):
            made.on_finish(nothing)


def test_the_members_of_a_cancelled_chain_are_counted_too(engine: Engine) -> None:
    with engine.begin() as connection, batch(connection, "x") as made:
        first = made.add(effect, key="a")
        made.add(effect.after(first), key="b")
        made.on_finish(effect, key="all ended")
    move(engine, CANCEL, first)
    assert row(engine, made.id).cancelled == 2
    assert called(engine) == ["all ended"]


def test_batches_are_listed_and_shown(engine: Engine, ask: Any) -> None:  # noqa: F811 - the fixture
    assert "no batch was written yet" in ask("batches", "list").stdout
    number, ids = write(engine)
    end(engine, "succeeded", ids[0])
    end(engine, "dead", ids[1])
    (listed,) = json.loads(ask("batches", "list", "--json").stdout)
    assert (listed["id"], listed["total"], listed["unfinished"], listed["dead"]) == (number, 3, 1, 1)
    shown = json.loads(ask("batches", "show", str(number), "--json").stdout)
    assert [run["id"] for run in shown["failed"]] == [ids[1]]
    page = ask("batches", "show", str(number)).stdout
    assert "2 of 3" in page
    assert f"when all have ended: {serial.name}" in page
    members = json.loads(ask("runs", "list", "--batch", str(number), "--json").stdout)
    assert {run["id"] for run in members} == set(ids)
    assert (
        f"prices: 2 of 3 done, 1 failed (`headrace batches show {number}`)" in ask("runs", "show", str(ids[0])).stdout
    )
    assert ask("batches", "show", "77").returncode == 2


def test_a_run_behind_another_is_listed_with_it(engine: Engine, ask: Any) -> None:  # noqa: F811 - the fixture
    with engine.begin() as connection:
        first = effect.enqueue(connection, key="a")
        second = effect.after(first).enqueue(connection, key="b")
    assert f"after run {first}" in ask("runs", "list").stdout
    page = ask("runs", "show", str(second)).stdout
    assert f"It waits for run {first}, which is waiting." in page
    assert f"before      run {second} {effect.name} (waiting)" in ask("runs", "show", str(first)).stdout
