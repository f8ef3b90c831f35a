"""An upstream that asks us to stay away, as all the rest meets it: runs held, no attempt burnt, all done after it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Engine, create_engine

import jobs
from integrations import POLITE, Hindrance, OutOfBudget
from integrations.warehouse import Warehouse
from jobs import Overlap, every
from jobs import _job as registry
from sandbox.upstreams import Upstreams
from tests.workers import rows
from tests.workers.conftest import Working
from tests.workers.test_blockers import named, served
from tests.workers.test_circuits import enqueue, enqueue_effect, fire, row
from tests.workers.trial_jobs import call, needy
from workers import actions, declaring, throttles
from workers.runtime import Runtime

__all__ = ["served"]

SAID = "warehouse answered 429 to GET /v1/locations and asks for 40 s of patience: the work waits; ask for more."
BLOCKED = """INSERT INTO upstreams (name, throttled_at, throttled_until, throttle_reason)
    VALUES ('warehouse', now() - interval '1 min', now() + interval '40 s', :said)"""
#: Seconds that the stand-in asks for, as a number and as a date by turns: longer than the test takes.
PATIENCE = 60


@pytest.fixture(scope="module")
def standing() -> Iterator[Upstreams]:
    with Upstreams.start(products=5, stores=2) as running:
        yield running


@pytest.fixture
def variables(variables: dict[str, str], standing: Upstreams) -> dict[str, str]:
    """The environment of a process that knows the stand-in warehouse."""
    standing.admin.reset_faults()
    return variables | {"WAREHOUSE_URL": standing.warehouse_url, "WAREHOUSE_TOKEN": standing.token}


def refusals(standing: Upstreams) -> int:
    """Return how often the stand-in has asked for patience."""
    return int(standing.admin.stats()["answers"].get("429", 0))


def write(engine: Engine, wait: float, reason: str = SAID) -> None:
    with engine.begin() as connection:
        throttles.write(connection, "warehouse", wait, reason)


@pytest.mark.usefixtures("relaying")
def test_a_run_that_met_it_is_put_back_the_others_are_held_other_work_flows_and_then_all_succeed(
    engine: Engine, runtime: Runtime, working: Working, standing: Upstreams
) -> None:
    standing.admin.faults(throttle_rate=1, retry_after_s=PATIENCE)
    before = refusals(standing)
    with engine.begin() as connection:
        for _ in range(12):
            call.enqueue(connection)
    with working(threads=4):
        rows.until(lambda: rows.one(engine, "SELECT count(DISTINCT run_id) FROM attempts") == 12)
        assert set(rows.one(engine, "SELECT array_agg(DISTINCT outcome) FROM attempts")) == {"snoozed"}
        # Each of four threads may have been on its way when the first was refused. Nobody else has asked.
        assert 1 <= refusals(standing) - before <= 4
        other = enqueue_effect(engine)
        rows.until(lambda: rows.state(engine, other) == "succeeded")
        standing.admin.reset_faults()
        runtime.redis.hset("headrace:budget:warehouse", "until", "1")
        rows.change(engine, "UPDATE upstreams SET throttled_until = now()")
        rows.change(engine, "UPDATE runs SET due_at = now() WHERE state = 'waiting'")
        rows.until(lambda: not rows.unfinished(engine), seconds=60)
    assert rows.one(engine, "SELECT sum(failures)::int FROM runs") == 0
    assert rows.one(engine, "SELECT count(*) FROM runs WHERE state = 'succeeded'") == 13
    met, held = ("warehouse answered 429 to GET /v1/locations%", "the budget of warehouse refills in %")
    for words in (met, held):
        assert rows.one(engine, "SELECT count(*) FROM attempts WHERE error LIKE :words", words=words) > 0
    assert "warehouse answered 429" in row(engine).throttle_reason


@pytest.mark.usefixtures("relaying")
def test_a_held_run_does_not_begin_and_comes_back_a_little_after_the_refill(engine: Engine, working: Working) -> None:
    rows.change(engine, BLOCKED, said=SAID)
    with working():
        run_id = enqueue(engine, needy)
        rows.until(lambda: rows.outcomes(engine, run_id) == ["snoozed"])
    held = rows.run_row(engine, run_id)
    assert (held.failures, held.state) == (0, "waiting")
    assert held.error.startswith("the budget of warehouse refills in ")
    assert held.due_at > row(engine).throttled_until


def test_fires_of_a_job_that_needs_it_share_one_run_until_it_may_be_asked_again(
    engine: Engine, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    del runtime
    planned = replace(needy, schedule=every(minutes=1, overlap=Overlap.ALLOW))
    monkeypatch.setattr(registry, "_registry", {needy.name: planned})
    with engine.begin() as connection:
        declaring.declare(connection, jobs.all_jobs().values())
    rows.change(engine, BLOCKED, said=SAID)
    for _ in range(2):
        fire(engine)
    assert rows.one(engine, "SELECT count(*) FROM runs") == 1
    rows.change(engine, "UPDATE upstreams SET throttled_until = now()")
    fire(engine)
    assert rows.one(engine, "SELECT count(*) FROM runs") == 2


def test_a_run_says_that_the_budget_is_in_its_way_until_when_and_why(served: Engine) -> None:
    rows.change(served, BLOCKED, said=SAID)
    needs, does_not = enqueue(served, needy), enqueue_effect(served)
    told, found = row(served), named(served, needs)
    assert (found.kind, found.since, found.until) == ("budget", told.throttled_at, told.throttled_until)
    until = f"{told.throttled_until:%H:%M:%S} UTC"
    why = "(warehouse answered 429 to GET /v1/locations and asks for 40 s of patience)"
    assert found.sentence.startswith("waits because the budget of warehouse refills in ")
    assert found.sentence.endswith(f" s, at {until} {why}")
    assert named(served, does_not).kind == "line"
    rows.change(served, "UPDATE upstreams SET throttled_until = now()")
    assert named(served, needs).kind == "line"


def test_only_what_lasts_longer_is_written_and_what_is_short_or_cannot_be_written_is_let_be(engine: Engine) -> None:
    write(engine, 30.0)
    first = row(engine)
    write(engine, 10.0, "shorter")
    write(engine, 30.5, "hardly longer")
    assert row(engine).throttle_reason == SAID
    write(engine, 60.0, "it said Bearer hunter2hunter2 back\nand more")
    longer = row(engine)
    assert longer.throttled_at == first.throttled_at
    assert longer.throttled_until > first.throttled_until
    assert "hunter2" not in longer.throttle_reason
    throttles.tell(engine, "stripe", 0.5, "short")
    assert rows.one(engine, "SELECT count(*) FROM upstreams") == 1
    nobody = create_engine("postgresql+psycopg://nobody@127.0.0.1:9/none")
    throttles.tell(nobody, "warehouse", 30.0, "away")
    nobody.dispose()


def test_a_reset_lets_the_next_call_ask_at_once_and_is_written_down(
    runtime: Runtime, engine: Engine, standing: Upstreams
) -> None:
    standing.admin.faults(throttle_rate=1, retry_after_s=600)
    warehouse = runtime.use(Warehouse)
    for _ in range(2):
        with pytest.raises(Exception, match="warehouse") as caught:
            warehouse.probe()
    assert isinstance(caught.value, OutOfBudget)
    standing.admin.reset_faults()
    with engine.begin() as connection:
        found = actions.reset_upstream(connection, runtime.redis, "warehouse", POLITE, by="ada")
        assert found == {Hindrance.BLOCKED}
    assert row(engine).throttled_until is None
    warehouse.probe()
    assert rows.one(engine, "SELECT details ? 'throttled_until' FROM audit WHERE action = 'upstreams reset'")
