"""The key of a step belongs to the work, not to the attempt."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from jobs import Context
from jobs._context import Stop
from jobs._idempotency import LONGEST_STEP
from tests.workers import rows
from tests.workers.trial_jobs import effect
from workers.actions import RETRY, Selection, move

Make = Callable[..., Context]

EVENT = """
    INSERT INTO events (source, external_id, type, verdict, headers, body)
    VALUES ('stripe', :name, 'refund.created', 'accepted', '{}', '') RETURNING id
"""


def enqueue(engine: Engine, event_id: int | None = None) -> int:
    with engine.begin() as connection:
        return effect.options(event_id=event_id).enqueue(connection, key="a")


def test_a_key_is_the_same_in_each_attempt_and_after_run_again_and_another_for_another_step_or_run(
    engine: Engine, make_context: Make
) -> None:
    first, second = enqueue(engine), enqueue(engine)
    key = make_context(run_id=first, attempt=1).idempotency_key("refund")
    rows.change(engine, "UPDATE runs SET state = 'dead', attempt = 3, finished_at = now() WHERE id = :id", id=first)
    with engine.begin() as connection:
        assert move(connection, RETRY, Selection(ids=(first,)), by="kim").ids == [first]
    assert make_context(run_id=first, attempt=4, job="a.new.name").idempotency_key("refund") == key
    others = [
        make_context(run_id=first).idempotency_key("refund 2"),
        make_context(run_id=second).idempotency_key("refund"),
    ]
    assert len({key, *others}) == 3
    assert key.isascii()
    assert len(key) <= 255


def test_the_replay_of_a_webhook_is_another_run_with_the_keys_of_the_first(engine: Engine, make_context: Make) -> None:
    one, other = (rows.one(engine, EVENT, name=name) for name in ("evt_1", "evt_2"))
    keys = [make_context(run_id=enqueue(engine, event)).idempotency_key("refund") for event in (one, one, other)]
    assert keys[0] == keys[1] != keys[2]


def test_an_id_that_comes_back_in_a_restored_database_has_other_keys(engine: Engine, make_context: Make) -> None:
    run_id = enqueue(engine)
    before = make_context(run_id=run_id).idempotency_key("charge")
    rows.change(engine, "DELETE FROM runs")
    rows.change(engine, "ALTER SEQUENCE runs_id_seq RESTART")
    assert enqueue(engine) == run_id
    assert make_context(run_id=run_id).idempotency_key("charge") != before


def test_in_a_chunk_each_step_says_whose_it_is(engine: Engine, make_context: Make) -> None:
    first, second = enqueue(engine), enqueue(engine)
    context = make_context(run_id=first)
    context.other_stops = (Stop(),)
    with pytest.raises(ValueError, match="whose step"):
        context.idempotency_key("charge")
    alone = make_context(run_id=second).idempotency_key("charge")
    assert context.idempotency_key("charge", run_id=second) == alone != context.idempotency_key("charge", run_id=first)


@pytest.mark.parametrize("step", ["", "x" * (LONGEST_STEP + 1)])
def test_a_step_needs_a_name(engine: Engine, make_context: Make, step: str) -> None:
    with pytest.raises(ValueError, match="name the step"):
        make_context(run_id=enqueue(engine)).idempotency_key(step)


def test_a_run_that_is_not_there_has_no_keys(make_context: Make) -> None:
    with pytest.raises(LookupError, match="there is no run 1"):
        make_context(run_id=1).idempotency_key("charge")
