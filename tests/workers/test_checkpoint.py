"""A job goes on where its last attempt stopped, and no zombie saves anything."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text

from jobs import BadCheckpoint, Context, Interrupted
from jobs._checkpoint import LARGEST, encode
from tests.workers import rows
from tests.workers.conftest import Working
from tests.workers.trial_jobs import effect, steps
from workers import actions, ledger, rescue
from workers.actions import RETRY, Selection
from workers.ledger import Ending

Make = Callable[..., Context]
KEYS = "SELECT array_agg(key ORDER BY id) FROM effects"


def enqueue(engine: Engine, **arguments: Any) -> int:
    with engine.begin() as connection:
        return steps.enqueue(connection, **arguments)


def held(engine: Engine) -> int:
    """Return a running run, in its first attempt."""
    with engine.begin() as connection:
        run_id, process = effect.enqueue(connection, key="a"), rows.enter(connection)
    rows.claim(engine, process, run_id, jobs=[effect.name])
    return run_id


def save(context: Context, state: dict[str, Any]) -> None:
    with context.transaction() as session:
        session.execute(text("INSERT INTO queues (name) VALUES (:name)"), {"name": str(state)})
        context.checkpoint(session, state)


@pytest.mark.usefixtures("relaying")
def test_each_attempt_goes_on_after_the_last_step_that_was_kept(engine: Engine, working: Working) -> None:
    with working():
        run_id = enqueue(engine, fail_at=[2, 4])
        rows.until(lambda: rows.run_row(engine, run_id).finished_at is not None)
    row = rows.run_row(engine, run_id)
    assert (row.state, row.result) == ("succeeded", {"first": 4})
    assert rows.one(engine, KEYS) == ["0", "1", "2", "3", "4", "5"]
    assert row.checkpoint is None


@pytest.mark.usefixtures("relaying")
def test_a_run_goes_on_where_a_stopped_worker_left_it(engine: Engine, working: Working) -> None:
    with working():
        run_id = enqueue(engine, fail_at=[3], stop="wait")
        rows.until(lambda: (rows.run_row(engine, run_id).checkpoint or {}).get("next") == 4)
    assert rows.outcomes(engine, run_id) == ["shutdown"]
    assert rows.run_row(engine, run_id).checkpoint == {"next": 4}
    with working():
        rows.until(lambda: rows.state(engine, run_id) == "succeeded")
    assert rows.run_row(engine, run_id).result == {"first": 4}
    assert rows.one(engine, KEYS) == ["0", "1", "2", "3", "4", "5"]


def test_what_the_transaction_did_and_where_to_go_on_are_kept_together_or_not_at_all(
    engine: Engine, make_context: Make
) -> None:
    context = make_context(run_id=held(engine))
    save(context, {"page": 1})
    with pytest.raises(RuntimeError), context.transaction() as session:  # noqa: PT012 - one idea
        context.checkpoint(session, {"page": 2})
        raise RuntimeError
    assert rows.run_row(engine, context.run_id).checkpoint == {"page": 1}


def test_an_attempt_whose_run_was_taken_saves_nothing_and_undoes_what_it_did(
    engine: Engine, make_context: Make
) -> None:
    run_id = held(engine)
    zombie = make_context(run_id=run_id, attempt=1)
    save(zombie, {"page": 1})
    rows.change(engine, "UPDATE processes SET stopped_at = now()")
    with engine.begin() as connection:
        assert rescue.take_back(connection) == 1
    with pytest.raises(Interrupted, match=rf"^run {run_id} was taken from attempt 1: what this transaction did is"):
        save(zombie, {"page": 2})
    rows.change(engine, "UPDATE runs SET due_at = now()")
    with engine.begin() as connection:
        (successor,) = ledger.claim(connection, [run_id], rows.enter(connection), [effect.name])
    assert (successor.attempt, successor.checkpoint) == (2, {"page": 1})
    with pytest.raises(Interrupted):
        save(zombie, {"page": 3})
    save(make_context(run_id=run_id, attempt=2), {"page": 4})
    assert rows.run_row(engine, run_id).checkpoint == {"page": 4}
    assert rows.one(engine, "SELECT array_agg(name ORDER BY name) FROM queues") == ["{'page': 1}", "{'page': 4}"]


@pytest.mark.parametrize("state", ["waiting", "dead", "cancelled", "succeeded"])
def test_only_a_success_forgets_the_place(engine: Engine, make_context: Make, state: str) -> None:
    run_id = held(engine)
    save(make_context(run_id=run_id), {"page": 1})
    with engine.begin() as connection:
        ledger.finish(connection, [Ending(run_id, 1, state=state, outcome="failed")])
    assert rows.run_row(engine, run_id).checkpoint == (None if state == "succeeded" else {"page": 1})


def test_a_run_that_a_person_runs_again_begins_at_the_beginning_and_has_time(
    engine: Engine, make_context: Make
) -> None:
    run_id = held(engine)
    save(make_context(run_id=run_id), {"page": 1})
    rows.change(engine, "UPDATE runs SET state = 'dead', expires_at = now(), deadline_at = now()")
    with engine.begin() as connection:
        assert actions.move(connection, RETRY, Selection(ids=(run_id,)), by="kim").ids == [run_id]
    row = rows.run_row(engine, run_id)
    assert (row.state, row.checkpoint, row.expires_at, row.deadline_at) == ("waiting", None, None, None)


def test_progress_does_not_wait_for_a_job_that_has_saved_and_not_committed(engine: Engine, make_context: Make) -> None:
    context = make_context(run_id=held(engine))
    step = {"run_id": context.run_id, "attempt": 1, "progress": {"done": 1}}
    with context.transaction() as session:
        context.checkpoint(session, {"page": 1})
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '1 ms'"))
            ledger.write_progress(connection, [step])
    assert rows.run_row(engine, context.run_id).progress is None
    with engine.begin() as connection:
        ledger.write_progress(connection, [step])
    assert rows.run_row(engine, context.run_id).progress == {"done": 1}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"page": "x" * LARGEST}, f"the checkpoint takes {LARGEST + 12} bytes and {LARGEST} are kept; save a place"),
        ({"page": "ü" * (LARGEST // 2)}, "bytes and 16384 are kept"),
        ({"page": object()}, "the checkpoint is not JSON"),
        ({"page": float("nan")}, "the checkpoint is not JSON"),
        ({"page": "\x00"}, "Postgres keeps no zero character"),
        ({"page": "\ud800"}, "half of a surrogate pair"),
        ({1: 2}, "text for names"),
        ([1], "a checkpoint is an object"),
    ],
    ids=range(8),
)
def test_what_cannot_be_kept_is_refused_in_one_sentence(state: Any, words: str) -> None:
    with pytest.raises(BadCheckpoint) as caught:
        encode("topic.sync", state)
    assert str(caught.value).startswith("job topic.sync: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_the_largest_size_is_kept() -> None:
    assert len(encode("topic.sync", {"page": "x" * (LARGEST - 12)}).encode()) == LARGEST
