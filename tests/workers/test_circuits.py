"""An open circuit as the rest of the system meets it: told in Postgres, runs held, and all of them done in the end."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine

import jobs
from integrations import POLITE, CircuitOpen, Hindrance, Standing, Unavailable
from integrations import _shared_circuit as shared
from integrations._circuit import LEAST
from integrations.warehouse import Warehouse
from jobs import Job, Overlap, every
from jobs import _job as registry
from tests.integrations.scripted import Scripted, reply, scripted_server
from tests.workers import rows
from tests.workers.conftest import Working
from tests.workers.test_blockers import named, served
from tests.workers.trial_jobs import call, effect, needy
from workers import actions, circuits, declaring, settings, slots
from workers.runtime import Runtime

__all__ = ["served"]

TOKEN = "hunter2-of-the-warehouse"
OPEN = "INSERT INTO upstreams (name, circuit_opened_at, next_probe_at, circuit_error) VALUES ('warehouse', {})"
NOT_YET = "now() - interval '1 min', now() + interval '1 min', 'it did not answer.'"
STALE = "now() - interval '1 hour', now() - interval '1 s', 'it did not answer.'"
LONG_STALE = "now() - interval '1 hour', now() - interval '301 s', 'it did not answer.'"


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A warehouse that answers by script."""
    with scripted_server() as running:
        yield running


@pytest.fixture
def variables(variables: dict[str, str], server: Scripted) -> dict[str, str]:
    """The environment of a process that knows this warehouse."""
    return variables | {"WAREHOUSE_URL": server.url, "WAREHOUSE_TOKEN": TOKEN}


def enqueue(engine: Engine, job: Job[[]]) -> int:
    with engine.begin() as connection:
        return job.enqueue(connection)


def row(engine: Engine) -> Any:
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT *, now() AS now FROM upstreams WHERE name = 'warehouse'")
        return found.one_or_none()


def write(engine: Engine, at: float, open_for: float | None, error: str | None = None) -> None:
    with engine.begin() as connection:
        circuits.write(connection, "warehouse", Standing(at, open_for, 0.0 if open_for is None else 5.0), error)


def fail_until_open(runtime: Runtime, server: Scripted) -> None:
    server.will(reply(500))
    client = runtime.use(Warehouse)._http
    for _ in range(LEAST):
        with pytest.raises(Unavailable):
            client.send("POST", f"{server.url}/v1/locations", content=b"")
    with pytest.raises(CircuitOpen):
        runtime.use(Warehouse).probe()


def test_a_process_that_sees_it_open_tells_and_whoever_closes_it_takes_that_back(
    runtime: Runtime, variables: dict[str, str], engine: Engine, server: Scripted
) -> None:
    fail_until_open(runtime, server)
    told = row(engine)
    assert "warehouse answered 500 to POST /v1/locations with no result" in told.circuit_error
    assert TOKEN not in told.circuit_error
    assert timedelta(0) <= told.now - told.circuit_opened_at < timedelta(seconds=60)
    assert told.next_probe_at > told.circuit_opened_at
    server.will(reply(200, {}))
    runtime.redis.hset("headrace:circuit:warehouse", "until", "1")
    with Runtime(settings.load(variables), connections=2) as other:
        other.use(Warehouse).probe()
    told = row(engine)
    assert (told.circuit_opened_at, told.next_probe_at, told.circuit_error) == (None, None, None)


def test_a_process_that_begins_takes_back_what_nobody_else_could(
    runtime: Runtime, engine: Engine, server: Scripted
) -> None:
    server.will(reply(200, {}))
    rows.change(engine, OPEN.format(NOT_YET))
    runtime.use(Warehouse).probe()
    assert row(engine).circuit_opened_at is None


def test_only_what_is_newer_is_written_and_what_came_from_the_future_counts_for_nothing(engine: Engine) -> None:
    now = row_time(engine)
    write(engine, now - 10, 0.0, "first\nand more")
    assert row(engine).circuit_error == "first"
    write(engine, now - 20, None)
    assert row(engine).circuit_error == "first"
    write(engine, now - 5, None)
    write(engine, now - 7, 3.0, "late")
    assert row(engine).circuit_opened_at is None
    write(engine, now + 3600, 0.0, "by a clock that is wrong")
    write(engine, now, None)
    assert row(engine).circuit_opened_at is None


def row_time(engine: Engine) -> float:
    return float(rows.one(engine, "SELECT extract(epoch FROM now())::float8"))


def test_a_secret_in_an_error_is_not_kept(engine: Engine) -> None:
    write(engine, row_time(engine), 0.0, "it said Bearer hunter2hunter2 back")
    assert "hunter2" not in row(engine).circuit_error


def test_with_postgres_away_the_call_that_saw_it_goes_on() -> None:
    nobody = create_engine("postgresql+psycopg://nobody@127.0.0.1:9/none")
    circuits.tell(nobody, "warehouse", Standing(1.0, 0.0, 5.0), "away")
    nobody.dispose()


@pytest.mark.usefixtures("relaying")
def test_while_it_is_open_runs_are_held_and_none_burns_an_attempt_and_then_all_succeed(
    engine: Engine, working: Working, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "FIRST", 1.0)
    server.will(reply(500))
    with engine.begin() as connection:
        for _ in range(20):
            call.enqueue(connection)
    with working(threads=4):
        rows.until(lambda: rows.one(engine, "SELECT count(*) FROM upstreams WHERE circuit_opened_at IS NOT NULL") == 1)
        rows.until(
            lambda: rows.one(engine, "SELECT count(DISTINCT run_id) FROM attempts WHERE outcome = 'snoozed'") == 20
        )
        failed = "SELECT coalesce(sum(failures), 0)::int FROM runs"
        # What failed before it opened has counted; since then only probes are made, and they count for nobody.
        before, asked = rows.one(engine, failed), len(server.seen)
        assert before * 3 <= LEAST + 4
        rows.until(lambda: len(server.seen) > asked)
        assert rows.one(engine, failed) == before
        held = (
            "SELECT count(*) FROM attempts WHERE error LIKE 'the circuit of warehouse is open since %next probe at %'"
        )
        assert rows.one(engine, held) > 0
        server.will(reply(200, {"data": [], "page": {}}))
        rows.until(lambda: not rows.unfinished(engine), seconds=60)
    assert rows.one(engine, "SELECT count(*) FROM runs WHERE state = 'succeeded'") == 20
    assert rows.one(engine, failed) == before
    assert row(engine).circuit_opened_at is None


@pytest.mark.usefixtures("relaying")
def test_what_is_out_of_date_holds_nobody(engine: Engine, working: Working) -> None:
    rows.change(engine, OPEN.format(STALE))
    with working():
        run_id = enqueue(engine, needy)
        rows.until(lambda: rows.state(engine, run_id) == "succeeded")
    assert rows.outcomes(engine, run_id) == ["succeeded"]


@pytest.mark.usefixtures("relaying")
def test_a_held_run_does_not_begin_and_comes_back_a_little_after_the_probe(engine: Engine, working: Working) -> None:
    rows.change(engine, OPEN.format(NOT_YET))
    with working():
        run_id = enqueue(engine, needy)
        rows.until(lambda: rows.outcomes(engine, run_id) == ["snoozed"])
    held = rows.run_row(engine, run_id)
    assert (held.failures, held.state) == (0, "waiting")
    assert held.error.startswith("the circuit of warehouse is open since")
    assert held.due_at > row(engine).next_probe_at


def test_a_run_says_that_the_circuit_is_in_its_way_since_when_and_until_when(served: Engine) -> None:
    rows.change(served, OPEN.format(NOT_YET))
    needs, does_not = enqueue(served, needy), enqueue_effect(served)
    told, found = row(served), named(served, needs)
    assert found.kind == "circuit"
    assert found.sentence == (
        f"waits because the circuit of warehouse is open since {told.circuit_opened_at:%Y-%m-%d %H:%M:%S} UTC"
        f" (it did not answer), next probe at {told.next_probe_at:%H:%M:%S} UTC"
    )
    assert (found.since, found.until) == (told.circuit_opened_at, told.next_probe_at)
    assert named(served, does_not).kind == "line"
    rows.change(served, "UPDATE runs SET due_at = now() + interval '1 day'")
    assert named(served, needs).kind == "due"
    rows.change(served, "UPDATE runs SET due_at = now()")
    rows.change(served, "UPDATE upstreams SET next_probe_at = now()")
    assert named(served, needs).kind == "line"


def enqueue_effect(engine: Engine) -> int:
    with engine.begin() as connection:
        return effect.enqueue(connection, key="a")


@pytest.mark.parametrize("overlap", [Overlap.ALLOW, Overlap.QUEUE])
@pytest.mark.parametrize("held", [OPEN.format(NOT_YET), OPEN.format(STALE)], ids=["before the probe", "just after"])
def test_fires_of_a_job_that_needs_it_share_one_run_also_once_that_has_begun(
    engine: Engine, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, overlap: Overlap, held: str
) -> None:
    del runtime
    planned = replace(needy, schedule=every(minutes=1, overlap=overlap))
    monkeypatch.setattr(registry, "_registry", {needy.name: planned})
    with engine.begin() as connection:
        declaring.declare(connection, jobs.all_jobs().values())
    rows.change(engine, held)
    for _ in range(3):
        fire(engine)
        # It was put back by the circuit.
        rows.change(engine, "UPDATE runs SET attempt = attempt + 1")
    assert rows.one(engine, "SELECT count(*) FROM runs") == 1
    assert rows.one(engine, "SELECT array_agg(outcome ORDER BY fire_at) FROM slots") == ["ran", *["coalesced"] * 2]
    rows.change(engine, "UPDATE upstreams SET next_probe_at = now() - interval '301 s'")
    fire(engine)
    assert rows.one(engine, "SELECT count(*) FROM runs") == 2


def fire(engine: Engine) -> None:
    """Let the schedule be due now; what fired before fired days ago."""
    rows.change(engine, "UPDATE slots SET fire_at = fire_at - (SELECT count(*) FROM slots) * interval '1 day'")
    rows.change(engine, "UPDATE schedules SET next_fire_at = date_trunc('minute', now())")
    with engine.begin() as connection:
        assert slots.take_due(connection)


def test_what_is_told_as_open_is_what_was_probed_lately(engine: Engine) -> None:
    with engine.begin() as connection:
        assert circuits.look(connection) == []
    rows.change(engine, OPEN.format(STALE))
    with engine.begin() as connection:
        assert [view.upstream for view in circuits.look(connection)] == ["warehouse"]
    rows.change(engine, "UPDATE upstreams SET next_probe_at = now() - interval '301 s'")
    with engine.begin() as connection:
        assert circuits.look(connection) == []
        assert not circuits.is_open(connection, "warehouse")


def test_closing_it_by_hand_lets_the_next_call_through_and_is_written_down_once(
    runtime: Runtime, engine: Engine, server: Scripted
) -> None:
    fail_until_open(runtime, server)
    server.will(reply(200, {}))
    with engine.begin() as connection:
        assert actions.reset_upstream(connection, runtime.redis, "warehouse", POLITE, by="ada") == {Hindrance.CIRCUIT}
        assert not actions.reset_upstream(connection, runtime.redis, "warehouse", POLITE, by="ada")
    assert row(engine).circuit_opened_at is None
    runtime.use(Warehouse).probe()
    assert rows.one(engine, "SELECT count(*) FROM audit WHERE action = 'upstreams reset' AND actor = 'ada'") == 1
