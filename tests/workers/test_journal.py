"""What an attempt did to others is known afterwards: how it ended, or that nobody knows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError

from integrations._calls import noted
from jobs import Interrupted
from tests.integrations.scripted import Scripted, hang, reply, scripted_server
from tests.workers import rows
from tests.workers.asking import told
from tests.workers.conftest import Working
from tests.workers.members import Members
from tests.workers.trial_jobs import charge, effect
from workers import calls, journal, logs, rescue
from workers.journal import AttemptJournal

#: Reaches nothing, and says so when it is used.
NO_DATABASE = create_engine("postgresql+psycopg://127.0.0.1:1/none", creator=lambda: pytest.fail("a statement"))


@pytest.fixture
def server() -> Iterator[Scripted]:
    """An upstream that answers by script."""
    with scripted_server() as running:
        yield running


@pytest.fixture
def members(variables: dict[str, str], tmp_path: Path) -> Iterator[Members]:
    """Real worker processes."""
    made = Members(tmp_path, variables)
    yield made
    made.close()


def enqueue(engine: Engine, url: str, **arguments: Any) -> int:
    with engine.begin() as connection:
        return charge.enqueue(connection, url=url, **arguments)


def held(engine: Engine) -> int:
    """Return a running run, in its first attempt."""
    with engine.begin() as connection:
        run_id, process = effect.enqueue(connection, key="a"), rows.enter(connection)
    rows.claim(engine, process, run_id, jobs=[effect.name])
    return run_id


def made(engine: Engine, run_id: int) -> calls.Calls:
    with engine.connect() as connection:
        return calls.look(connection, run_id)


def write(engine: Engine, found: list[journal.Row]) -> None:
    with engine.begin() as connection:
        journal.write(connection, found)


@pytest.mark.usefixtures("relaying")
def test_a_worker_killed_after_it_sent_leaves_a_call_that_nobody_knows_of_and_the_next_attempt_has_its_key(
    engine: Engine, variables: dict[str, str], members: Members, server: Scripted, working: Working
) -> None:
    server.will(hang(server))
    worker = members.start("tests.workers.trial_worker")
    run_id = enqueue(engine, server.url)
    rows.until(lambda: server.seen)
    (call,) = made(engine, run_id).listed
    assert (call.outcome, call.method, call.template) == ("under way", "POST", "/v1/charges")
    worker.kill()
    rows.change(engine, "UPDATE processes SET heartbeat_at = now() - interval '1 min' WHERE kind = 'worker'")
    with engine.begin() as connection:
        assert rescue.take_back(connection) == 1
    assert made(engine, run_id).listed[0].outcome == "unknown"

    server.will(reply(201, {}, {"Request-Id": "req_1"}))
    with working():
        rows.change(engine, "UPDATE runs SET due_at = now()")
        rows.until(lambda: rows.state(engine, run_id) == "succeeded")
    keys = [seen.headers["idempotency-key"] for seen in server.seen]
    assert keys[0] == keys[1]

    assert [(c.attempt, c.outcome, c.status, c.idempotency_key) for c in made(engine, run_id).listed] == [
        (1, "unknown", None, keys[0]),
        (2, "done", 201, keys[0]),
    ]
    page = told(variables, "runs", "show", str(run_id))
    assert "shop POST /v1/charges" in page
    assert "unknown" in page
    assert "done 201" in page
    assert "req_1" in page


@pytest.mark.usefixtures("relaying")
def test_retries_and_run_again_repeat_the_key_and_nothing_secret_is_kept(
    engine: Engine, server: Scripted, working: Working
) -> None:
    server.will(*[reply(500)] * 3, reply(200, {}), reply(200, {}))
    with working():
        run_id = enqueue(engine, server.url)
        rows.until(lambda: rows.state(engine, run_id) == "succeeded")
        rows.change(
            engine,
            "UPDATE runs SET state = 'waiting', due_at = now(), finished_at = NULL, args = args || '{\"reads\": 1}'",
        )
        rows.until(lambda: len(rows.attempts(engine, run_id)) == 3)
    first, second, read, third = made(engine, run_id).listed
    assert [(c.outcome, c.status, c.tries) for c in (first, second, third)] == [
        ("failed", 500, 3), ("done", 200, 1), ("done", 200, 1),
    ]  # fmt: skip
    assert (read.template, read.method, read.place, third.place) == ("/v1/prices/{id}", "GET", 1, 2)
    assert len({seen.headers["idempotency-key"] for seen in server.seen if seen.method == "POST"}) == 1
    for table in ("calls", "attempts", "log_lines"):
        assert "hunter2" not in (rows.one(engine, f"SELECT string_agg(t::text, '') FROM {table} t") or "")


def test_an_attempt_whose_run_was_taken_sends_nothing_more(engine: Engine) -> None:
    run_id = held(engine)
    rows.change(engine, "UPDATE runs SET attempt = 2")
    with (
        AttemptJournal(run_id, 1, engine, lambda _: None),
        pytest.raises(Interrupted, match="POST was not sent"),
        noted("shop", "POST", "/v1/charges"),
    ):
        pytest.fail("it was sent")
    assert made(engine, run_id).listed == []


def test_what_cannot_be_written_down_is_not_sent(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that holds the row of its own run, and a database that is away."""

    def refuse(connection: Connection) -> None:
        del connection
        raise OperationalError("connect", None, psycopg.OperationalError("away"))

    monkeypatch.setattr(journal, "PATIENCE", "100ms")
    run_id = held(engine)
    with AttemptJournal(run_id, 1, engine, lambda _: None):
        with engine.begin() as mine:
            mine.exec_driver_sql("SELECT 1 FROM runs FOR UPDATE")
            with pytest.raises(OperationalError, match="lock timeout"), noted("shop", "POST", "/v1/charges"):
                pytest.fail("it was sent")
        event.listen(engine, "begin", refuse)
        with pytest.raises(OperationalError, match="away"), noted("shop", "POST", "/v1/charges"):
            pytest.fail("it was sent")
        event.remove(engine, "begin", refuse)


def test_of_many_reads_the_first_and_the_last_are_kept_and_cost_no_statement_of_their_own(engine: Engine) -> None:
    run_id, found = held(engine), list[journal.Row]()
    with AttemptJournal(run_id, 1, NO_DATABASE, found.append):
        for _ in range(200):
            with noted("shop", "GET", "/v1/prices"):
                pass
        assert [row["place"] for row in found] == list(range(1, 26))
    write(engine, found)
    told_of = made(engine, run_id)
    assert [call.place for call in told_of.listed] == [*range(1, 26), *range(176, 201)]
    assert told_of.left_out == {1: 150}


def test_of_very_many_writes_the_first_and_the_last_are_kept(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FIRST_WRITES", 3)
    monkeypatch.setattr(journal, "LAST_WRITES", 2)
    run_id = held(engine)
    with AttemptJournal(run_id, 1, engine, lambda row: write(engine, [row])):
        for _ in range(10):
            with noted("shop", "POST", "/v1/charges") as call:
                call.tries, call.status = 1, 200
    told_of = made(engine, run_id)
    assert [(call.place, call.outcome) for call in told_of.listed] == [(place, "done") for place in (1, 2, 3, 9, 10)]
    assert told_of.left_out == {1: 5}


def test_calls_go_with_their_run(engine: Engine) -> None:
    run_id = held(engine)
    with AttemptJournal(run_id, 1, engine, lambda _: None), noted("shop", "POST", "/v1/charges"):
        pass
    assert rows.one(engine, "SELECT count(*) FROM calls") == 1
    rows.change(engine, "DELETE FROM runs")
    assert rows.one(engine, "SELECT count(*) FROM calls") == 0


def test_what_callers_and_upstreams_make_up_is_cut_and_cleaned(engine: Engine) -> None:
    logs.hide(["of-no-known-shape"])
    run_id, found = held(engine), list[journal.Row]()
    key = "sk_" + "live_hunter2"
    with AttemptJournal(run_id, 1, engine, found.append), noted("shop", "POST", "/x", key) as call:
        call.request_id = "\x1b[2J of-no-known-shape " + "x" * 1_000
    write(engine, found)
    (kept,) = made(engine, run_id).listed
    assert kept.idempotency_key == logs.HIDDEN
    assert kept.request_id is not None
    assert kept.request_id.startswith("?[2J <secret> xxx")
    assert len(kept.request_id) == journal.LONGEST
