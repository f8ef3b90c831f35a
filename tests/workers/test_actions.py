"""Operator actions against the real database: what moves, what stays, and what the audit says."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, select, text

import jobs
from jobs import Priority
from models import MOVES, AuditEntry, Event, Run, State, Stream, StreamMove
from workers import actions
from workers.actions import (
    CANCEL,
    DISCARD,
    HOLDS,
    RESTORE,
    RETRY,
    EventSelection,
    Refused,
    Selection,
    _asking,
    prioritise,
)

MARK = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
INSERT = text("""
    INSERT INTO runs (job, queue, args, state, attempt, failures, max_attempts, error, finished_at, unique_key)
    VALUES (:job, :queue, CAST(:args AS jsonb), :state, 1, 3, 10, :error,
            CASE WHEN :state IN ('dead', 'succeeded', 'cancelled') THEN now() END, :unique_key)
    RETURNING id
""")


@pytest.fixture(autouse=True)
def _jobs() -> None:
    jobs.load()


def a_run(connection: Connection, state: State = State.DEAD, **values: Any) -> int:
    row = {"job": "a.b", "queue": "default", "args": "{}", "error": None, "unique_key": None, "state": state} | values
    return int(connection.execute(INSERT, row).scalar_one())


def state_of(engine: Engine, run_id: int) -> Any:
    with engine.connect() as connection:
        return connection.execute(select(*Run.__table__.columns).where(Run.id == run_id)).one()


def audit(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        entry = AuditEntry
        chosen = select(entry.actor, entry.action, entry.target, entry.count, entry.details).order_by(entry.id)
        return list(connection.execute(chosen).all())


def test_every_move_is_a_legal_one() -> None:
    assert all(State.WAITING in MOVES[state] for state in RETRY.leaves)
    assert all(State.CANCELLED in MOVES[state] for state in CANCEL.leaves | DISCARD.leaves)
    assert all(State.DEAD in MOVES[state] for state in RESTORE.leaves)


@pytest.mark.parametrize("state", [State.DEAD, State.CANCELLED, State.SUCCEEDED])
def test_a_retried_run_starts_over(engine: Engine, state: State) -> None:
    with engine.begin() as connection:
        run_id = a_run(connection, state, error="broken")
        moved = actions.move(connection, RETRY, Selection(ids=(run_id,)), by="kim")
    run = state_of(engine, run_id)
    assert moved.ids == [run_id]
    assert (run.state, run.failures, run.error, run.finished_at) == ("waiting", 0, None, None)
    assert run.attempt == 1, "the fencing number only grows"


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED, State.RUNNING])
def test_a_living_run_is_not_retried_and_the_reason_is_told(engine: Engine, state: State) -> None:
    with engine.begin() as connection:
        run_id = a_run(connection, state)
        moved = actions.move(connection, RETRY, Selection(ids=(run_id, 999)), by="kim")
    assert moved.ids == []
    assert f"it is {state}" in moved.left[run_id]
    assert moved.left[999] == "there is no such run"
    assert audit(engine) == []


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED])
def test_a_cancelled_run_sets_its_key_free(engine: Engine, state: State) -> None:
    with engine.begin() as connection:
        run_id = a_run(connection, state, unique_key="one")
        actions.move(connection, CANCEL, Selection(ids=(run_id,)), by="kim")
    run = state_of(engine, run_id)
    assert (run.state, run.unique_key, run.error) == ("cancelled", None, "cancelled by kim before it ran")
    assert run.finished_at is not None


def test_a_running_run_is_asked_once_to_stop(engine: Engine) -> None:
    with engine.begin() as connection:
        run_id = a_run(connection, State.RUNNING)
        first = actions.move(connection, CANCEL, Selection(ids=(run_id,)), by="kim")
        second = actions.move(connection, CANCEL, Selection(ids=(run_id,)), by="lee")
    run = state_of(engine, run_id)
    assert (run.state, run.finished_at) == ("running", None)
    assert run.cancel_requested_at is not None
    assert first.ids == [run_id]
    assert "asked to stop already" in second.left[run_id]


def test_only_the_dead_are_discarded(engine: Engine) -> None:
    with engine.begin() as connection:
        dead, done = a_run(connection, error="broken"), a_run(connection, State.SUCCEEDED)
        moved = actions.move(connection, DISCARD, Selection(ids=(dead, done)), by="kim")
    assert moved.ids == [dead]
    run = state_of(engine, dead)
    assert (run.state, run.error) == ("cancelled", "broken")


def test_a_discarded_run_comes_back_as_it_was_and_can_be_discarded_again(engine: Engine) -> None:
    with engine.begin() as connection:
        run_id = a_run(connection, error="broken")
    before = state_of(engine, run_id)
    with engine.begin() as connection:
        actions.move(connection, DISCARD, Selection(job="a.b"), by="kim")
    assert state_of(engine, run_id).discarded_at is not None
    with engine.begin() as connection:
        assert actions.move(connection, RESTORE, Selection(job="a.b"), by="lee").ids == [run_id]
    assert state_of(engine, run_id) == before
    assert [(entry.actor, entry.action) for entry in audit(engine)] == [
        ("kim", "runs discard"),
        ("lee", "runs restore"),
    ]
    with engine.begin() as connection:
        assert actions.move(connection, DISCARD, Selection(ids=(run_id,)), by="kim").ids == [run_id]


def test_only_what_was_discarded_within_a_day_comes_back(engine: Engine) -> None:
    with engine.begin() as connection:
        old, cancelled = a_run(connection), a_run(connection, State.CANCELLED)
        actions.move(connection, DISCARD, Selection(ids=(old,)), by="kim")
        connection.execute(
            text("UPDATE runs SET discarded_at = now() - interval '25 hours' WHERE id = :id"), {"id": old}
        )
        moved = actions.move(connection, RESTORE, Selection(ids=(old, cancelled)), by="kim")
    assert moved.ids == []
    assert moved.left[old] == "it was discarded more than a day ago"
    assert moved.left[cancelled] == "it was cancelled, not discarded"


def test_a_discarded_run_that_is_retried_is_discarded_no_more(engine: Engine) -> None:
    with engine.begin() as connection:
        run_id = a_run(connection)
        actions.move(connection, DISCARD, Selection(ids=(run_id,)), by="kim")
        actions.move(connection, RETRY, Selection(ids=(run_id,)), by="kim")
    assert state_of(engine, run_id).discarded_at is None


def test_waiting_runs_become_urgent_and_those_on_the_broker_keep_their_place(engine: Engine) -> None:
    with engine.begin() as connection:
        waiting, queued = a_run(connection, State.WAITING), a_run(connection, State.QUEUED)
        again, running = a_run(connection, State.WAITING), a_run(connection, State.RUNNING)
        connection.execute(text("UPDATE runs SET priority = 0 WHERE id = :id"), {"id": again})
        named = Selection(ids=(waiting, queued, again, running))
        moved = actions.move(connection, prioritise(Priority.URGENT), named, by="kim")
        assert actions.on_the_broker(connection, Selection(job="a.b")) == 1
    assert moved.ids == [waiting]
    assert moved.left == {
        queued: "it is on the broker and keeps its place there",
        again: "it is so already",
        running: "it is running, and prioritise takes only: waiting",
    }
    assert [state_of(engine, run_id).priority for run_id in (waiting, queued)] == [0, 2]
    assert audit(engine)[0].details == {"ids": [waiting], "to": "urgent"}


def test_a_dry_run_counts_by_job_and_by_the_class_of_the_last_error(engine: Engine) -> None:
    attempt = text("""
        INSERT INTO attempts (run_id, number, started_at, outcome, error_class) VALUES
            (:id, 1, now(), 'failed', :class), (:id, 0, now(), 'failed', 'Older')
    """)
    with engine.begin() as connection:
        for job, kind in (("a.b", "Unavailable"), ("a.b", "Unavailable"), ("a.b", "KeyError"), ("c.d", "KeyError")):
            connection.execute(attempt, {"id": a_run(connection, job=job, error=f"{kind}: no"), "class": kind})
        a_run(connection, error="discarded by hand")
        found = actions.groups(connection, RETRY, Selection(states=(State.DEAD,)))
    assert [(group.job, group.error_class, group.count) for group in found] == [
        ("a.b", "Unavailable", 2),
        ("a.b", "KeyError", 1),
        ("a.b", None, 1),
        ("c.d", "KeyError", 1),
    ]
    assert found[0].example == "Unavailable: no"


def test_filters_that_name_no_state_retry_the_dead_only(engine: Engine) -> None:
    with engine.begin() as connection:
        dead = a_run(connection)
        a_run(connection, State.SUCCEEDED)
        a_run(connection, job="other.job")
        moved = actions.move(connection, RETRY, Selection(job="a.b"), by="kim")
    assert moved.ids == [dead]


def test_an_empty_selection_is_refused(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(Refused, match="say which runs"):
        actions.move(connection, RETRY, Selection(), by="kim")


@pytest.mark.parametrize(
    "selection",
    [
        Selection(job="a.b"),
        Selection(queue="stock"),
        Selection(error="TIMED 100%"),
        Selection(since=datetime.now(UTC) - timedelta(hours=1)),
        Selection(arguments={"sku": "123"}),
        Selection(arguments={"full": "true"}),
        Selection(states=(State.DEAD,)),
    ],
)
def test_each_filter_narrows(engine: Engine, selection: Selection) -> None:
    with engine.begin() as connection:
        args = '{"sku": "123", "full": true}'
        wanted = a_run(connection, queue="stock", error="it timed 100% out", args=args)
        other = a_run(connection, State.SUCCEEDED, job="c.d", error="100 % of it", args='{"sku": "1234"}')
        old = text("UPDATE runs SET finished_at = now() - interval '2 hours' WHERE id = :id")
        connection.execute(old, {"id": other})
        found = connection.execute(select(Run.id).where(selection.condition())).scalars().all()
    assert list(found) == [wanted]


def test_a_dry_run_names_the_same_runs_and_changes_nothing(engine: Engine) -> None:
    with engine.begin() as connection:
        ids = [a_run(connection) for _ in range(3)]
        assert actions.candidates(connection, RETRY, Selection(job="a.b")).ids == ids
    assert {state_of(engine, run_id).state for run_id in ids} == {"dead"}
    assert audit(engine) == []


def test_two_operators_at_once_move_each_run_once(engine: Engine) -> None:
    with engine.begin() as connection:
        ids = [a_run(connection) for _ in range(500)]

    def retry(by: str) -> list[int]:
        with engine.begin() as connection:
            return actions.move(connection, RETRY, Selection(job="a.b"), by=by).ids

    with ThreadPoolExecutor(4) as pool:
        moved = [run_id for found in pool.map(retry, "abcd") for run_id in found]
    assert sorted(moved) == ids
    assert sum(entry.count for entry in audit(engine)) == len(ids)


def test_a_cancel_that_waited_for_a_claim_asks_the_running_run_to_stop(engine: Engine) -> None:
    with engine.begin() as connection:
        run_id = a_run(connection, State.QUEUED)

    def cancel() -> list[int]:
        with engine.begin() as connection:
            return actions.move(connection, CANCEL, Selection(ids=(run_id,)), by="kim").ids

    blocked = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as claim:
            claim.execute(text("UPDATE runs SET state = 'running' WHERE id = :id"), {"id": run_id})
            waiting = pool.submit(cancel)
            with engine.connect() as watch:
                poll_until(lambda: bool(watch.execute(blocked).scalar()))
        assert waiting.result(10) == [run_id]
    run = state_of(engine, run_id)
    assert run.state == "running"
    assert run.cancel_requested_at is not None


def test_the_audit_says_who_did_what_and_hides_secrets(engine: Engine) -> None:
    with engine.begin() as connection:
        run_id = a_run(connection)
        actions.move(connection, RETRY, Selection(ids=(run_id,)), by="kim")
        actions.record(connection, by="kim", action="a b", target="x", details={"token": "hush", "why": "sk_live_1"})
    first, second = audit(engine)
    assert (first.actor, first.action, first.count, first.details) == ("kim", "runs retry", 1, {"ids": [run_id]})
    assert second.details == {"token": "<secret>", "why": "<secret>"}


def test_a_rolled_back_action_leaves_no_audit(engine: Engine) -> None:
    with engine.connect() as connection:
        actions.pause(connection, HOLDS["queues"], "warehouse", by="kim")
        connection.rollback()
    assert audit(engine) == []


@pytest.mark.parametrize(
    ("plural", "name"), [("queues", "warehouse"), ("upstreams", "warehouse"), ("schedules", "a.b")]
)
def test_a_hold_is_set_once_and_lifted_once(engine: Engine, plural: str, name: str) -> None:
    kind = HOLDS[plural]
    with engine.begin() as connection:
        if plural == "schedules":
            connection.execute(text("INSERT INTO schedules VALUES ('a.b', 'every 5 s', 'UTC', now())"))
        assert actions.pause(connection, kind, name, by="kim", reason="they move house")
        assert not actions.pause(connection, kind, name, by="lee", reason="another")
        held = connection.execute(select(kind.table).where(kind.table.c.name == name)).one()
        assert (held.paused_by, held.reason) == ("kim", "they move house")
        assert actions.resume(connection, kind, name, by="lee")
        assert not actions.resume(connection, kind, name, by="lee")
        held = connection.execute(select(kind.table).where(kind.table.c.name == name)).one()
        assert (held.paused_at, held.paused_by, held.reason) == (None, None, None)
    assert [(e.action, e.target) for e in audit(engine)] == [(f"{plural} pause", name), (f"{plural} resume", name)]


@pytest.mark.parametrize("plural", ["queues", "upstreams", "schedules"])
def test_what_does_not_exist_cannot_be_held(engine: Engine, plural: str) -> None:
    with engine.connect() as connection, pytest.raises(Refused, match="there is no"):
        actions.pause(connection, HOLDS[plural], "nowhere", by="kim")


def test_a_job_asked_for_by_a_person_is_a_run_like_any_other(engine: Engine) -> None:
    with engine.begin() as connection:
        run_id = actions.enqueue(connection, "warehouse.sync", {"full": "true"}, by="kim")
    assert state_of(engine, run_id).args == {"full": True}
    assert audit(engine)[0].details == {"run": run_id}


def test_digits_typed_for_a_text_stay_a_text() -> None:
    def find(context: jobs.Context, *, sku: str, most: int = 1) -> None:
        del context, sku, most

    job = replace(jobs.find("warehouse.sync"), name="a.find", function=find)
    assert _asking.accepted(job, {"sku": "0123", "most": "5"}) == {"sku": "0123", "most": 5}
    assert _asking.accepted(job, {"sku": "123", "most": "5"}) == {"sku": "123", "most": 5}
    with pytest.raises(jobs.BadArguments, match="'most'"):
        _asking.accepted(job, {"sku": "abc", "most": "many"})


def an_event(connection: Connection, kind: str, external_id: str = "evt_1") -> int:
    values = {"source": "warehouse", "external_id": external_id, "type": kind, "verdict": "ignored"}
    event = Event(**values, headers={}, body=b"{}")
    inserted = Event.__table__.insert().values(**values, headers=event.headers, body=event.body)  # type: ignore[attr-defined]
    return int(connection.execute(inserted.returning(Event.id)).scalar_one())


def test_a_replayed_event_goes_to_its_job_again(engine: Engine) -> None:
    with engine.begin() as connection:
        event = an_event(connection, "product.updated")
        nobody = an_event(connection, "moon.risen", "evt_2")
        found = actions.replay(connection, EventSelection(source="warehouse"), by="kim", limit=10)
    assert [(one.event_id, one.job) for one in found] == [(event, "warehouse.apply_event"), (nobody, None)]
    run = state_of(engine, found[0].run_id or 0)
    assert (run.job, run.args, run.event_id) == ("warehouse.apply_event", {"event_id": event}, event)
    with engine.connect() as connection:
        kept = connection.execute(select(Event.run_id, Event.verdict).where(Event.id == event)).one()
    assert kept == (run.id, "accepted")


def test_events_are_chosen_by_what_stands_in_their_bodies_whatever_else_is_kept(engine: Engine) -> None:
    bodies = [
        (b'{"data": {"object": {"id": "pi_1", "amount": 100}}}', "accepted"),
        (b'{"data": {"object": {"id": "pi_2", "amount": 100}}}', "ignored"),
        (b'{"data": "pi_1", "text": "\\u0000"}', "accepted"),
        (b"[1]", "ignored"),
        (b"\xff{", "malformed"),
        (b'{"data": {"object": {"id": "pi_1"}}}', "rejected"),
    ]
    with engine.begin() as connection:
        for number, (body, verdict) in enumerate(bodies):
            values = {"source": "mill", "external_id": str(number), "type": "t", "verdict": verdict, "headers": {}}
            connection.execute(Event.__table__.insert().values(**values, body=body))  # type: ignore[attr-defined]

        def found(*fields: tuple[str, str]) -> list[int]:
            selection = EventSelection(fields=fields)
            return [one.event_id for one in actions.replayable(connection, selection, limit=10)]

        assert found(("data.object.id", "pi_1")) == [1]
        assert found(("data.object.amount", "100")) == [1, 2]
        assert found(("data.object.amount", "100"), ("data.object.id", "pi_2")) == [2]
        assert found(("0", "1")) == [4]
        assert found(("data.object.id", "'; DROP TABLE events")) == []


def test_the_audit_of_a_replay_says_how_its_events_were_chosen() -> None:
    chosen = EventSelection(source="warehouse", fields=(("data.sku", "7"),), since=MARK)
    assert chosen.words() == f"--source warehouse --since {MARK} --field data.sku=7"
    assert EventSelection(ids=(3, 4)).words() == "3 4"


def test_a_backfill_keeps_what_is_missing_and_nothing_twice(engine: Engine) -> None:
    events = [{"id": f"evt_{n}", "type": "payment_intent.succeeded"} for n in range(3)]
    with engine.begin() as connection:
        assert actions.backfill(connection, "stripe", events[:2], by="kim") == 2
    with engine.begin() as connection:
        assert actions.backfill(connection, "stripe", events, by="kim") == 1
        caused = select(Run.job, Event.external_id).join(Event, Event.run_id == Run.id).order_by(Event.id)
        assert connection.execute(caused).all() == [("stripe.refresh_payment", f"evt_{n}") for n in range(3)]


@pytest.fixture
def stream(engine: Engine) -> int:
    """A stream that was read up to `MARK` and is being walked."""
    with engine.begin() as connection:
        values = {"upstream": "warehouse", "name": "products", "high_water": MARK, "fence": 4, "walk_full": False}
        inserted = Stream.__table__.insert().values(**values, walk_cursor="c", etag="e")  # type: ignore[attr-defined]
        return int(connection.execute(inserted.returning(Stream.id)).scalar_one())


@pytest.mark.parametrize("to", [MARK - timedelta(hours=2), None])
def test_a_rewound_stream_goes_back_and_its_walk_ends(engine: Engine, stream: int, to: datetime | None) -> None:
    with engine.begin() as connection:
        actions.rewind(connection, "products", to, by="kim", reason="a bad import")
    with engine.connect() as connection:
        row = connection.execute(select(*Stream.__table__.columns)).one()
        move = connection.execute(select(*StreamMove.__table__.columns)).one()
    assert (row.high_water, row.fence, row.walk_full, row.walk_cursor, row.etag) == (to, 5, None, None, None)
    assert (move.stream_id, move.moved_from, move.moved_to) == (stream, MARK, to)
    assert move.reason == "rewound by kim: a bad import"
    assert audit(engine)[0].target == "warehouse/products"


def test_what_a_rewind_takes_is_known_before(engine: Engine, stream: int) -> None:
    """Rows by what we hold of that time, ten minutes of overlap included; the pace by the calls of the last walk."""
    change = """
        WITH run AS (
            INSERT INTO runs (job, queue, args, max_attempts) VALUES ('warehouse.sync', 'warehouse', '{}', 1)
            RETURNING id
        ), called AS (
            INSERT INTO calls (run_id, attempt, place, upstream, method, template, milliseconds)
            SELECT id, 1, n, 'warehouse', 'GET', '/v1/products', 1000 * n FROM run, generate_series(1, 3) n
        ), held AS (
            INSERT INTO products (source_id, sku, name, source_version, source_updated_at)
            SELECT 'p_' || n, 'SKU ' || n, 'Tea', 1, CAST(:mark AS timestamptz) - n * interval '1 minute'
            FROM generate_series(1, 1300) n
        ) UPDATE streams SET run_id = (SELECT id FROM run) WHERE id = :stream
    """
    with engine.begin() as connection:
        connection.execute(text(change), {"mark": MARK, "stream": stream})
        mark = actions.find_stream(connection, "products")
        some = actions.estimate(connection, mark, MARK - timedelta(minutes=600))
        assert some == actions.Estimate(rows=610, calls=2, seconds=4.0)
        assert actions.estimate(connection, mark, None) == actions.Estimate(rows=1300, calls=3, seconds=6.0)


@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize(
    ("name", "to", "words"),
    [("products", MARK, "cannot be rewound"), ("product", None, "did you mean"), ("x", None, "no stream")],
)
def test_a_rewind_that_makes_no_sense_is_refused(engine: Engine, name: str, to: datetime | None, words: str) -> None:
    with engine.connect() as connection, pytest.raises(Refused, match=words):
        actions.rewind(connection, name, to, by="kim")


def test_a_schedule_fires_by_hand_once_it_was_declared(engine: Engine) -> None:
    with engine.begin() as connection:
        with pytest.raises(Refused, match="no scheduler has declared"):
            actions.fire(connection, "warehouse.sync", by="kim")
        connection.execute(text("INSERT INTO schedules VALUES ('warehouse.sync', 'every 3600 s', 'UTC', now())"))
        run_id = actions.fire(connection, "warehouse.sync", by="kim")
        slot = connection.execute(text("SELECT outcome, run_id FROM slots")).one()
    assert slot == ("fired_by_hand", run_id)
    assert audit(engine)[0].action == "schedules fire"


def poll_until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=seconds)
    while not true():
        assert datetime.now(UTC) < deadline, "it never came"
