"""Runs behind other runs: due when the one before has succeeded, whoever ends it and whatever happens meanwhile."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session, sessionmaker

from jobs import BadArguments, Context, Unique, job
from jobs._job import Job
from models import NEVER
from tests.workers import rows
from tests.workers.conftest import Working
from tests.workers.trial_jobs import begin, effect, fail
from workers import actions, blockers, ledger, relations, rescue, story
from workers.actions import CANCEL, DISCARD, RETRY, Move, Selection
from workers.ledger import Ending

JOBS = [effect.name, fail.name]


def enqueue(engine: Engine, after: int | None = None, made: Job[Any] = effect, **arguments: object) -> int:
    with engine.begin() as connection:
        wanted = made if after is None else made.after(after)
        return wanted.enqueue(connection, **(arguments or {"key": "a"}))


def chain(engine: Engine, length: int) -> list[int]:
    with engine.begin() as connection:
        made = [effect.enqueue(connection, key="a")]
        while len(made) < length:
            made.append(effect.after(made[-1]).enqueue(connection, key="a"))
    return made


def finish(connection: Connection, run_id: int, state: str = "succeeded") -> None:
    process = rows.enter(connection)
    (held,) = ledger.claim(connection, [run_id], process, JOBS)
    outcome = "succeeded" if state == "succeeded" else "failed"
    assert ledger.finish(connection, [Ending(run_id, held.attempt, state=state, outcome=outcome)]) == 1


def end(engine: Engine, run_id: int, state: str = "succeeded") -> None:
    with engine.begin() as connection:
        finish(connection, run_id, state)


def move(engine: Engine, kind: Move, *run_ids: int) -> None:
    with engine.begin() as connection:
        assert len(actions.move(connection, kind, Selection(ids=run_ids), by="ada").ids) == len(run_ids)


def states(engine: Engine, run_ids: list[int]) -> list[str]:
    return [rows.state(engine, run_id) for run_id in run_ids]


def is_due(engine: Engine, run_id: int) -> bool:
    return bool(rows.one(engine, "SELECT due_at <= clock_timestamp() FROM runs WHERE id = :id", id=run_id))


def why(engine: Engine, run_id: int) -> str:
    with engine.connect() as connection:
        found = dict(connection.execute(text("SELECT * FROM runs WHERE id = :id"), {"id": run_id}).mappings().one())
        return blockers.blocker(found, blockers.look(connection, found, datetime.now(UTC))).sentence


@pytest.mark.usefixtures("relaying")
def test_a_chain_is_executed_one_run_after_the_other(
    engine: Engine, sessions: sessionmaker[Session], working: Working
) -> None:
    with sessions.begin() as session:
        last = effect.enqueue(session, key="0", seconds=0.05)
        for number in range(1, 6):
            last = effect.after(last).enqueue(session, key=str(number))
    with working(threads=4):
        rows.until(lambda: rows.unfinished(engine) == 0)
    assert rows.one(engine, "SELECT string_agg(key, '' ORDER BY id) FROM effects") == "012345"
    early = """SELECT count(*) FROM runs r JOIN runs b ON b.id = r.after_id
        WHERE r.started_at < b.started_at OR r.due_at < b.finished_at"""
    assert rows.one(engine, early) == 0


def test_a_run_behind_another_is_due_when_that_one_has_succeeded_and_not_before(engine: Engine) -> None:
    first, second, third = chain(engine, 3)
    assert rows.run_row(engine, second).due_at == NEVER
    assert why(engine, second) == f"waits for run {first}, which is waiting"
    end(engine, first)
    assert is_due(engine, second)
    assert not is_due(engine, third)


def test_a_retry_of_the_run_before_releases_nothing_and_its_success_does(engine: Engine) -> None:
    first, second = chain(engine, 2)
    end(engine, first, "waiting")
    assert not is_due(engine, second)
    end(engine, first)
    assert is_due(engine, second)


def test_behind_a_dead_run_others_wait_and_say_so_until_it_is_run_again(engine: Engine) -> None:
    first, second = chain(engine, 2)
    end(engine, first, "dead")
    assert why(engine, second) == f"waits for run {first}, which is dead: retry or discard it"
    move(engine, RETRY, first)
    assert not is_due(engine, second)
    end(engine, first)
    assert is_due(engine, second)


@pytest.mark.parametrize("kind", [CANCEL, DISCARD])
def test_cancelling_a_run_cancels_all_that_wait_behind_it_with_a_reason(engine: Engine, kind: Move) -> None:
    made = chain(engine, 300)
    if kind is DISCARD:
        end(engine, made[0], "dead")
    move(engine, kind, made[0])
    assert set(states(engine, made)) == {"cancelled"}
    assert rows.run_row(engine, made[-1]).error == (
        f"cancelled with run {made[0]}, which it waited for and which was cancelled"
    )


def test_what_was_released_is_not_cancelled_with_the_run_before_it(engine: Engine) -> None:
    first, second = chain(engine, 2)
    end(engine, first)
    move(engine, RETRY, first)
    move(engine, CANCEL, first)
    assert states(engine, [first, second]) == ["cancelled", "waiting"]


def test_a_cancelled_chain_that_is_run_again_goes_in_order_again(engine: Engine) -> None:
    made = chain(engine, 3)
    move(engine, CANCEL, made[0])
    move(engine, RETRY, made[1])
    assert why(engine, made[1]) == f"waits for run {made[0]}, which is cancelled: retry it, or cancel this one"
    move(engine, RETRY, made[0], made[2])
    for number, run_id in enumerate(made):
        assert [is_due(engine, other) for other in made[number:]] == [True] + [False] * (2 - number)
        end(engine, run_id)


def test_a_dead_run_whose_predecessor_succeeded_is_due_at_once_when_run_again(engine: Engine) -> None:
    first, second = chain(engine, 2)
    end(engine, first)
    end(engine, second, "dead")
    move(engine, RETRY, second)
    assert is_due(engine, second)


def test_behind_a_run_that_has_succeeded_already_a_run_is_due_at_once(engine: Engine) -> None:
    first = enqueue(engine)
    end(engine, first)
    assert is_due(engine, enqueue(engine, after=first))


def test_many_runs_may_wait_for_the_same_one(engine: Engine) -> None:
    first = enqueue(engine)
    with engine.begin() as connection:
        behind = effect.after(first).enqueue_many(connection, [{"key": str(number)} for number in range(50)])
    end(engine, first)
    assert all(is_due(engine, run_id) for run_id in behind)


def test_a_run_that_nobody_knows_cannot_be_waited_for(engine: Engine) -> None:
    with pytest.raises(BadArguments, match="there is no run 4711 that a run could wait for"):
        enqueue(engine, after=4711)


@job(queue="trial", unique=Unique(wait=5))
def gathered(context: Context) -> None:
    """Wait for more of its kind."""
    del context


@pytest.mark.parametrize("wanted", [effect.options(due_at=datetime(2030, 1, 1, tzinfo=UTC)), gathered])
def test_a_run_behind_another_has_no_moment_of_its_own(engine: Engine, wanted: Job[Any]) -> None:
    first = enqueue(engine)
    with pytest.raises(BadArguments, match="is due when that one has succeeded"), engine.begin() as connection:
        wanted.after(first).insert(connection, {})


@pytest.mark.parametrize("who", ["the worker", "the caller"])
def test_an_enqueue_that_races_with_the_end_of_the_run_before_it_is_never_forgotten(engine: Engine, who: str) -> None:
    """Whichever of the two commits first, the other one waits for it and sees what it did."""
    first = enqueue(engine)

    def write(connection: Connection) -> Any:
        made = effect.after(first).enqueue(connection, key="b")
        connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))  # what its commit would do
        return made

    def succeed(connection: Connection) -> Any:
        finish(connection, first)

    early, late = (succeed, write) if who == "the worker" else (write, succeed)
    with ThreadPoolExecutor() as pool, engine.begin() as connection:
        early(connection)
        other = pool.submit(_alone, engine, late)
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        rows.until(lambda: rows.one(engine, waits) == 1)
        connection.commit()
        other.result(20)
    assert is_due(engine, int(rows.one(engine, "SELECT max(id) FROM runs")))


def _alone(engine: Engine, step: Callable[[Connection], Any]) -> Any:
    with engine.begin() as connection:
        return step(connection)


def test_a_caller_that_works_on_after_its_enqueue_does_not_hold_up_the_run_before(engine: Engine) -> None:
    first = enqueue(engine)
    with engine.begin() as connection:
        second = effect.after(first).enqueue(connection, key="b")
        end(engine, first)  # would wait for ever if the caller held the row
    assert is_due(engine, second)


def test_a_lost_worker_whose_run_is_set_aside_leaves_those_behind_waiting(engine: Engine) -> None:
    first, second = chain(engine, 2)
    with engine.begin() as connection:
        process = rows.enter(connection)
        ledger.claim(connection, [first], process, JOBS)
        connection.execute(text("UPDATE runs SET deaths = 2 WHERE id = :id"), {"id": first})
        connection.execute(text("UPDATE processes SET stopped_at = now() WHERE id = :id"), {"id": process})
        assert rescue.take_back(connection) == 1
    assert states(engine, [first, second]) == ["dead", "waiting"]
    assert not is_due(engine, second)


def test_a_run_that_is_no_longer_kept_takes_those_that_wait_for_it_along(engine: Engine) -> None:
    first, second = chain(engine, 2)
    rows.change(engine, "DELETE FROM runs WHERE id = :id", id=first)
    assert "no longer kept" in rows.run_row(engine, second).error


@pytest.mark.usefixtures("relaying")
def test_a_run_shows_its_chain_its_parent_and_its_children(
    engine: Engine, sessions: sessionmaker[Session], working: Working
) -> None:
    with sessions.begin() as session:
        parent = begin.enqueue(session, keys=[str(number) for number in range(20)])
    with working():
        rows.until(lambda: rows.unfinished(engine) == 0)
    with engine.connect() as connection:
        told = story.as_object(story.read(connection, parent))
        (last,) = connection.execute(text("SELECT id, after_id FROM runs WHERE after_id IS NOT NULL")).all()
        follower = story.as_object(story.read(connection, last.id))
    assert told["children_total"] == 22
    assert "and 12 more" in str(relations.facts(told)["enqueued"])
    assert [run["id"] for run in follower["parent"]] == [parent]
    assert [(run["id"], run["state"]) for run in follower["after"]] == [(last.after_id, "succeeded")]
