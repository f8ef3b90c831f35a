"""Why a run waits: each thing that may be in its way, brought about on a real Postgres and named."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

import jobs
from jobs import Priority
from tests.workers import rows
from tests.workers.trial_jobs import effect, in_turn, serial, shared
from workers import actions, blockers, gates
from workers.actions import HOLDS, keys_of
from workers.blockers import Blocker


@pytest.fixture
def served(runtime: object, engine: Engine) -> Engine:
    """A database with a live worker and a live relay for the trial queue."""
    del runtime
    statement = """INSERT INTO processes (kind, host, pid, version, queues, threads, jobs)
        VALUES ('worker', 'mill', 1, '0', '{trial}', 4, :jobs), ('relay', 'mill', 2, '0', '{}', 0, '{}')"""
    rows.change(engine, statement, jobs=list(jobs.names()))
    return engine


def enqueue(engine: Engine, job: Any, **arguments: object) -> int:
    with engine.begin() as connection:
        return int(job.enqueue(connection, **arguments))


def named(engine: Engine, run_id: int) -> Blocker:
    with engine.connect() as connection:
        run = dict(connection.execute(text("SELECT * FROM runs WHERE id = :id"), {"id": run_id}).mappings().one())
        now = connection.execute(text("SELECT now()")).scalar_one()
        return blockers.blocker(run, blockers.look(connection, run, now))


def run_now(engine: Engine, run_id: int) -> None:
    rows.change(engine, "UPDATE runs SET state = 'running', attempt = 1, started_at = now() WHERE id = :id", id=run_id)


@pytest.mark.parametrize(
    ("hold", "name", "words"),
    [
        (HOLDS["queues"], "trial", "ada paused queue trial (they move): `headrace queues resume`"),
        (HOLDS["jobs"], shared.name, f"ada paused job {shared.name} (they move): `headrace jobs resume`"),
        (HOLDS["keys"], "acme", "ada paused key acme (they move): `headrace keys resume`"),
        (keys_of(shared.name), "acme", f"ada paused key acme of {shared.name} (they move): `headrace keys resume`"),
    ],
)
def test_a_pause_is_named_with_who_why_since_and_until(
    served: Engine, hold: actions.Hold, name: str, words: str
) -> None:
    run_id = enqueue(served, shared, tenant="acme")
    until = rows.one(served, "SELECT now() + interval '1 hour'")
    with served.begin() as connection:
        assert actions.pause(connection, hold, name, by="ada", reason="they move", until=until)
    found = named(served, run_id)
    assert words in found.sentence
    assert found.until == until
    assert found.since is not None


def test_a_pause_of_another_key_is_not_in_the_way(served: Engine) -> None:
    run_id = enqueue(served, shared, tenant="acme")
    with served.begin() as connection:
        actions.pause(connection, HOLDS["keys"], "other", by="ada")
    assert named(served, run_id).kind == "line"


def test_a_run_whose_time_has_not_come_says_when_it_comes(served: Engine) -> None:
    run_id = enqueue(served, effect, key="a")
    rows.change(served, "UPDATE runs SET due_at = now() + interval '3 min', failures = 2, error = 'away'")
    found = named(served, run_id)
    assert found.sentence == "tries again after failure 2 of 10: away"
    assert found.until == rows.run_row(served, run_id).due_at


def test_without_a_worker_or_a_relay_it_says_whom_to_start(served: Engine) -> None:
    run_id = enqueue(served, effect, key="a")
    rows.change(served, "UPDATE processes SET stopped_at = now() WHERE kind = 'relay'")
    assert "no relay lives to push it: start one" in named(served, run_id).sentence
    rows.change(served, "UPDATE processes SET stopped_at = now()")
    assert "no live worker serves queue trial: start one" in named(served, run_id).sentence


def test_a_run_whose_job_is_gone_from_the_code_waits_for_a_worker_that_knows_it(served: Engine) -> None:
    run_id = enqueue(served, effect, key="a")
    rows.change(served, "UPDATE processes SET jobs = array_remove(jobs, :name)", name=effect.name)
    words = "no such job in the code of any live worker: it waits for a worker that knows it"
    assert words in named(served, run_id).sentence
    rows.change(served, "UPDATE runs SET state = 'queued'")
    assert words in named(served, run_id).sentence


def test_a_key_without_room_names_the_run_that_holds_it(served: Engine) -> None:
    first, second = (enqueue(served, serial, sku="a", number=number) for number in range(2))
    run_now(served, first)
    found = named(served, second)
    assert found.sentence == f"waits for room: 1 of 1 runs of key 'a' are under way, run {first} holds it"
    assert found.since == rows.run_row(served, first).started_at


def test_an_ordered_run_waits_behind_the_one_that_will_be_tried_again(served: Engine) -> None:
    first, second = (enqueue(served, serial, sku="a", number=number) for number in range(2))
    rows.change(served, "UPDATE runs SET attempt = 1, due_at = now() + interval '1 min' WHERE id = :id", id=first)
    found = named(served, second)
    assert found.sentence == f"waits behind run {first}, which has begun: runs of key 'a' go in order"
    assert found.until == rows.run_row(served, first).due_at


def test_a_job_and_a_queue_without_room_are_named(served: Engine) -> None:
    for tenant in "abc":
        run_now(served, enqueue(served, shared, tenant=tenant))
    last = enqueue(served, shared, tenant="d")
    assert f"3 of 3 runs of job {shared.name} are under way" in named(served, last).sentence
    with served.begin() as connection:
        actions.limit(connection, "trial", 2, by="ada")
    other = enqueue(served, effect, key="a")
    assert "3 of 2 runs of queue trial are under way" in named(served, other).sentence


def test_after_a_pause_it_says_that_things_go_on_slowly(served: Engine) -> None:
    run_now(served, enqueue(served, in_turn, tenant="a"))
    last = enqueue(served, in_turn, tenant="b")
    with served.begin() as connection:
        actions.pause(connection, HOLDS["jobs"], in_turn.name, by="ada")
        actions.resume(connection, HOLDS["jobs"], in_turn.name, by="ada", ramp=600)
    assert "for it goes on slowly after a pause" in named(served, last).sentence


def test_in_line_it_says_how_many_are_before_it_and_about_when_it_starts(served: Engine) -> None:
    for _ in range(4):
        enqueue(served, effect, key="a")
    with served.begin() as connection:
        effect.options(priority=Priority.BULK).enqueue(connection, key="behind")
        urgent = effect.options(priority=Priority.URGENT).enqueue(connection, key="a")
    last = enqueue(served, effect, key="a")
    assert "with no runs of queue trial before it" in named(served, urgent).sentence
    assert "with 5 runs of queue trial before it" in named(served, last).sentence
    rows.change(served, "INSERT INTO attempts (run_id, number, started_at, outcome) VALUES (1, 1, now(), 'succeeded')")
    found = named(served, last)
    assert "which ends 0.0167 a second" in found.sentence
    assert found.until is not None
    assert found.until - rows.one(served, "SELECT now()") > timedelta(minutes=4)


def test_a_pause_ends_by_itself_and_the_audit_says_so(served: Engine) -> None:
    with served.begin() as connection:
        for kind, name in ((HOLDS["queues"], "trial"), (HOLDS["keys"], "acme")):
            until = connection.execute(text("SELECT now() + interval '1 hour'")).scalar_one()
            actions.pause(connection, kind, name, by="ada", until=until, ramp=60)
        gates.lift(connection)
        assert gates.read(connection).keys == ["acme"]
        for table in ("queues", "pauses"):
            connection.execute(text(f"UPDATE {table} SET paused_until = now()"))
        gates.lift(connection)
        found = gates.read(connection)
    assert (found.queues["trial"], found.keys, found.ramps) == (1, [], {("", "acme"): 1})
    lifted = "SELECT array_agg(target ORDER BY target) FROM audit WHERE actor = 'the clock'"
    assert rows.one(served, lifted) == ["acme", "trial"]


def test_a_ramp_opens_slowly_and_is_forgotten_at_its_end(served: Engine) -> None:
    assert [gates.ramp(seconds, 100) for seconds in (0, 10, 50, 100, 1_000)] == [1, 2, 32, 1024, 1024]
    with served.begin() as connection:
        actions.pause(connection, HOLDS["queues"], "trial", by="ada")
        actions.pause(connection, HOLDS["jobs"], shared.name, by="ada")
        actions.resume(connection, HOLDS["queues"], "trial", by="ada", ramp=10)
        actions.resume(connection, HOLDS["jobs"], shared.name, by="ada", ramp=10)
        for table in ("queues", "pauses"):
            connection.execute(text(f"UPDATE {table} SET resumed_at = now() - interval '10 s'"))
        gates.lift(connection)
        found = gates.read(connection)
    assert (found.queues["trial"], found.ramps) == (None, {})
