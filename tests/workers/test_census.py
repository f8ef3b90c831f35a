"""What there is right now, read from a real database."""

import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, Engine, text

from workers import census, timetable


def put(connection: Connection, statement: str, **values: object) -> None:
    connection.execute(text(statement), values)


def put_run(connection: Connection, state: str, queue: str = "default", due: str = "0 s", job: str = "a.b") -> int:
    statement = text("""
        INSERT INTO runs (job, queue, args, state, max_attempts, due_at)
        VALUES (:job, :queue, '{}', :state, 3, now() + CAST(:due AS interval)) RETURNING id
    """)
    values = {"job": job, "queue": queue, "state": state, "due": due}
    return int(connection.execute(statement, values).scalar_one())


def put_process(connection: Connection, kind: str, age: str = "0 s", queues: list[str] | None = None) -> int:
    statement = text("""
        INSERT INTO processes (kind, host, pid, version, queues, heartbeat_at)
        VALUES (:kind, 'mill', 7, '1', :queues, now() - CAST(:age AS interval)) RETURNING id
    """)
    return int(connection.execute(statement, {"kind": kind, "age": age, "queues": queues or []}).scalar_one())


def test_an_empty_database_has_zero_runs_in_each_of_the_six_states(engine: Engine) -> None:
    with engine.connect() as connection:
        assert census.runs_by_state(connection) == {
            "waiting": 0,
            "queued": 0,
            "running": 0,
            "succeeded": 0,
            "dead": 0,
            "cancelled": 0,
        }


def test_runs_are_counted_by_state(engine: Engine) -> None:
    with engine.connect() as connection:
        for state in ("waiting", "waiting", "queued", "dead", "succeeded", "succeeded", "succeeded", "cancelled"):
            put_run(connection, state)
        assert census.runs_by_state(connection) == {
            "waiting": 2,
            "queued": 1,
            "running": 0,
            "succeeded": 3,
            "dead": 1,
            "cancelled": 1,
        }


def test_counts_stop_at_the_cap(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "CAP", 3)
    with engine.connect() as connection:
        for state in ("waiting", "succeeded") * 5:
            put_run(connection, state)
        found = census.runs_by_state(connection)
        assert found["waiting"] == 3
        assert found["succeeded"] <= 3


def test_a_queue_that_was_never_used_is_listed_when_a_job_declares_it(engine: Engine) -> None:
    with engine.connect() as connection:
        (only,) = census.queues(connection, ["warehouse"])
    assert (only.name, only.waiting, only.workers, only.oldest_due_at) == ("warehouse", 0, 0, None)


def test_a_queue_tells_what_is_due_for_how_long_and_who_serves_it(engine: Engine) -> None:
    with engine.connect() as connection:
        put_run(connection, "waiting", "search", "-90 s")
        put_run(connection, "waiting", "search", "1 hour")
        put_run(connection, "queued", "search", "-30 s")
        put_run(connection, "running", "search", "-900 s")
        put_process(connection, "worker", "1 s", ["search", "default"])
        put_process(connection, "worker", "60 s", ["search"])
        put_process(connection, "relay", "1 s", ["search"])
        (found,) = census.queues(connection, [])
    assert (found.waiting, found.due, found.queued, found.running, found.workers) == (2, 1, 1, 1, 1)
    assert found.oldest_due_seconds == pytest.approx(90, abs=5)


def test_a_run_that_is_not_due_makes_nobody_late(engine: Engine) -> None:
    with engine.connect() as connection:
        put_run(connection, "waiting", due="1 hour")
        (found,) = census.queues(connection, ["default"])
    assert (found.waiting, found.due, found.oldest_due_seconds) == (1, 0, None)


def test_a_paused_queue_says_by_whom_and_why(engine: Engine) -> None:
    with engine.connect() as connection:
        put(connection, "INSERT INTO queues VALUES ('billing', now(), 'ada', 'provider migrates')")
        (found,) = census.queues(connection, [])
    assert (found.paused_by, found.reason) == ("ada", "provider migrates")


def test_a_schedule_shows_its_newest_slot_and_that_runs_state(engine: Engine) -> None:
    with engine.connect() as connection:
        put(
            connection,
            "INSERT INTO schedules (name, rule, zone, next_fire_at) VALUES ('a.b', 'every 60 s', 'UTC', now())",
        )
        run = put_run(connection, "dead")
        slot = "INSERT INTO slots (schedule, fire_at, outcome, run_id) VALUES ('a.b', now() - :age * interval '1 s', "
        put(connection, slot + "'coalesced', NULL)", age=120)
        put(connection, slot + "'ran', :run)", age=60, run=run)
        (found,) = timetable.schedules(connection)
    assert (found.last_outcome, found.last_run_id, found.last_run_state) == ("ran", run, "dead")


def test_a_schedule_that_never_fired_has_no_last_slot(engine: Engine) -> None:
    with engine.connect() as connection:
        put(
            connection,
            "INSERT INTO schedules (name, rule, zone, next_fire_at) VALUES ('a.b', 'every 60 s', 'UTC', now())",
        )
        (found,) = timetable.schedules(connection)
    assert (found.last_fire_at, found.last_outcome, found.last_run_state) == (None, None, None)


def test_a_stream_tells_its_age_its_walk_and_what_it_set_aside(engine: Engine) -> None:
    with engine.connect() as connection:
        put(
            connection,
            "INSERT INTO streams (upstream, name, walked_at, walk_full, held_deletions)"
            " VALUES ('warehouse', 'products', now() - interval '1 hour', true, 4), ('warehouse', 'stock_levels', "
            " NULL, NULL, 0)",
        )
        put(
            connection,
            "INSERT INTO quarantine (stream_id, fingerprint, reason, raw, resolved_at)"
            " SELECT id, f, 'bad', '{}', r FROM streams, (VALUES ('x', NULL::timestamptz), ('y', now())) AS v(f, r)"
            " WHERE name = 'products'",
        )
        products, levels = census.streams(connection)
    assert products.freshness_seconds == pytest.approx(3600, abs=5)
    assert (products.walking, products.quarantined, products.held_deletions) == (True, 1, 4)
    assert (levels.freshness_seconds, levels.walking) == (None, False)


def test_a_process_is_alive_while_its_heartbeat_is_young_and_it_did_not_stop(engine: Engine) -> None:
    with engine.connect() as connection:
        young = put_process(connection, "worker", "2 s")
        stale = put_process(connection, "worker", "20 s")
        put_process(connection, "worker", "2 hours")
        stopped = put_process(connection, "relay", "1 s")
        put(connection, "UPDATE processes SET stopped_at = now() WHERE id = :id", id=stopped)
        run = put_run(connection, "running")
        put(connection, "UPDATE runs SET process_id = :p WHERE id = :r", p=young, r=run)
        found = {view.id: view for view in census.processes(connection)}
    assert {id_: view.alive for id_, view in found.items()} == {young: True, stale: False, stopped: False}
    assert found[young].running == 1


def test_totals_count_events_by_verdict_and_their_duplicates(engine: Engine) -> None:
    with engine.connect() as connection:
        for number, verdict in enumerate(("accepted", "accepted", "ignored")):
            put(
                connection,
                "INSERT INTO events (source, external_id, type, verdict, headers, body, duplicates)"
                " VALUES ('warehouse', :id, 'x', :verdict, '{}', '', 2)",
                id=str(number),
                verdict=verdict,
            )
        found = census.totals(connection)
    assert (found.accepted, found.ignored, found.malformed, found.duplicates) == (2, 1, 0, 6)


def test_the_index_of_an_empty_database_knows_no_drift(engine: Engine) -> None:
    with engine.connect() as connection:
        found = census.index(connection)
    assert (found.generations, found.pending, found.drift, found.live) == ([], 0, None, None)


def test_the_index_tells_pending_marks_generations_and_the_drift_of_the_last_check(engine: Engine) -> None:
    with engine.connect() as connection:
        put(
            connection,
            "INSERT INTO generations (index, state, mapping_hash, documents)"
            " VALUES ('products-1', 'previous', 'a', 8), ('products-2', 'live', 'b', 9)",
        )
        put(
            connection,
            "INSERT INTO search_changes (product_id, created_at) VALUES (1, now()), (1, now() - interval '40 s')",
        )
        put(
            connection,
            "INSERT INTO search_rejects (generation_id, product_id, version, reason, status)"
            " SELECT id, 1, 1, 'too long', 400 FROM generations",
        )
        run = put_run(connection, "succeeded", job="search.verify")
        result = {"documents": 9, "products": 10, "missing": 1, "stale": 2, "orphans": 0, "rejected": 5}
        put(connection, "UPDATE runs SET result = CAST(:r AS jsonb) WHERE id = :id", r=json.dumps(result), id=run)
        found = census.index(connection)
    assert [generation.index for generation in found.generations] == ["products-2", "products-1"]
    assert (found.pending, found.rejects, found.drift) == (2, 1, 3)
    assert found.oldest_seconds == pytest.approx(40, abs=5)
    assert found.live is not None
    assert found.live.documents == 9


def test_recent_runs_come_newest_first_and_stop_at_the_limit(engine: Engine) -> None:
    with engine.connect() as connection:
        ids = [put_run(connection, "waiting") for _ in range(5)]
        found = census.recent_runs(connection, 3)
    assert [view.id for view in found] == ids[:1:-1]


def test_views_become_plain_json(engine: Engine) -> None:
    with engine.connect() as connection:
        put_run(connection, "waiting", "search")
        views = {"queues": census.queues(connection, ["a"]), "index": census.index(connection)}
    plain = json.loads(json.dumps(census.as_json(views)))
    assert [queue["name"] for queue in plain["queues"]] == ["a", "search"]
    assert datetime.fromisoformat(plain["queues"][1]["oldest_due_at"]) <= datetime.now(UTC)
