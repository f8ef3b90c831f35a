"""The ledger is added up, and only what nobody will ask for again is thrown away."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text

import jobs
from jobs import BadArguments, Context, Interrupted, _history, maintenance

OLD_RUN = "now() - interval '31 days'"

SHOP = """
    INSERT INTO locations (source_id, name) VALUES ('loc_1', 'Store 1');
    INSERT INTO products (source_id, sku, name, source_version, source_updated_at)
    SELECT 'prod_' || n, 'SKU-' || n, 'Product', 1, now() FROM generate_series(1, 8) n;
    INSERT INTO stock_levels (source_id, product_id, location_id, on_hand, source_version, source_updated_at)
    SELECT 'il_' || p.id, p.id, l.id, 5, 1, now() FROM products p, locations l;
    INSERT INTO stock_movements (level_id, delta, kind, quantity_after, source_ref, occurred_at)
    SELECT id, delta, 'sync', 5, 'v' || delta, now() FROM stock_levels, unnest(ARRAY[9, -4]) delta;
"""


def run_script(engine: Engine, script: str) -> None:
    with engine.begin() as connection:
        for statement in script.split(";"):
            if statement.strip():
                connection.execute(text(statement))


def ids(engine: Engine, table: str) -> list[int]:
    with engine.begin() as connection:
        return list(connection.scalars(text(f"SELECT id FROM {table} ORDER BY id")))


def test_both_jobs_run_daily() -> None:
    known = jobs.load()
    for name in ("maintenance.check_ledger", "maintenance.prune"):
        rule = known[name].schedule
        assert rule is not None
        assert rule.text.startswith("cron ")
        assert rule.zone == "UTC"


def test_a_ledger_that_adds_up_is_counted(engine: Engine, make_context: Callable[..., Context]) -> None:
    run_script(engine, SHOP)
    assert maintenance.check_ledger(make_context()) == {"levels": 8, "wrong": 0}


def test_an_empty_shop_has_a_right_ledger(make_context: Callable[..., Context]) -> None:
    assert maintenance.check_ledger(make_context()) == {"levels": 0, "wrong": 0}


def test_levels_that_do_not_add_up_are_named_but_not_all_of_them(
    engine: Engine, make_context: Callable[..., Context]
) -> None:
    run_script(engine, SHOP)
    run_script(engine, "UPDATE stock_levels SET on_hand = 6 WHERE id <= 7")
    with pytest.raises(maintenance.LedgerWrong) as caught:
        maintenance.check_ledger(make_context())
    message = str(caught.value)
    assert "7 of 8 levels" in message
    assert "il_1 (6 on hand, 5 by its movements)" in message
    assert "il_6" not in message


def test_stock_without_any_movement_is_wrong(engine: Engine, make_context: Callable[..., Context]) -> None:
    run_script(engine, SHOP.partition("INSERT INTO stock_movements")[0])
    with pytest.raises(maintenance.LedgerWrong, match="8 of 8"):
        maintenance.check_ledger(make_context())


AGED = f"""
    INSERT INTO runs (id, job, queue, args, state, max_attempts, finished_at, created_at, discarded_at) VALUES
        (1, 'a.b', 'q', '{{}}', 'succeeded', 1, {OLD_RUN}, {OLD_RUN}, NULL),
        (2, 'a.b', 'q', '{{}}', 'dead', 1, now() - interval '9 years', now() - interval '9 years', NULL),
        (3, 'a.b', 'q', '{{}}', 'cancelled', 1, {OLD_RUN}, {OLD_RUN}, NULL),
        (4, 'a.b', 'q', '{{}}', 'cancelled', 1, now() - interval '91 days', now() - interval '91 days', NULL),
        (5, 'a.b', 'q', '{{}}', 'cancelled', 1, now() - interval '91 days', now() - interval '91 days', now()),
        (6, 'a.b', 'q', '{{}}', 'succeeded', 1, now(), {OLD_RUN}, NULL),
        (7, 'a.b', 'q', '{{}}', 'waiting', 1, NULL, {OLD_RUN}, NULL);
    INSERT INTO attempts (run_id, number, started_at, outcome) VALUES
        (1, 1, now(), 'succeeded'), (2, 1, now(), 'failed');
    INSERT INTO log_lines (run_id, attempt, line) VALUES (1, 1, 'gone'), (2, 1, 'kept')
"""
MANY = f"""
    INSERT INTO runs (job, queue, args, state, max_attempts, finished_at, created_at)
    SELECT 'a.b', 'q', '{{}}', CASE WHEN n % 5 = 0 THEN 'dead' ELSE 'succeeded' END, 1, {OLD_RUN}, {OLD_RUN}
    FROM generate_series(1, 20) n
"""


def test_ended_runs_go_by_their_age_with_all_they_said_and_the_dead_stay(
    engine: Engine, make_context: Callable[..., Context]
) -> None:
    run_script(engine, AGED)
    result = maintenance.prune(make_context()) or {}
    assert result["runs"] == 2
    assert ids(engine, "runs") == [2, 3, 5, 6, 7]
    assert ids(engine, "attempts") == ids(engine, "log_lines") == [2]


def test_the_ages_are_arguments(engine: Engine, make_context: Callable[..., Context]) -> None:
    run_script(engine, AGED)
    maintenance.prune(make_context(), succeeded=32, cancelled=30)
    assert ids(engine, "runs") == [1, 2, 5, 6, 7]


@pytest.mark.parametrize("age", [{"succeeded": 0}, {"cancelled": -1}, {"events": 1.5}])
def test_an_age_that_makes_no_sense_is_refused_at_once(engine: Engine, age: dict[str, Any]) -> None:
    with engine.begin() as connection, pytest.raises(BadArguments, match=next(iter(age))):
        maintenance.prune.enqueue(connection, **age)


def test_a_long_history_goes_page_by_page_past_the_dead(
    engine: Engine, make_context: Callable[..., Context], notes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_history, "FIRST", 1)
    monkeypatch.setattr(_history, "LARGEST", 3)
    run_script(engine, MANY)
    result = maintenance.prune(make_context()) or {}
    assert result["runs"] == 16
    assert ids(engine, "runs") == [5, 10, 15, 20]
    assert [step["done"] for step in notes.steps][:3] == [1, 3, 5]


def test_pruning_that_was_interrupted_keeps_what_it_did_and_goes_on_the_next_time(
    engine: Engine, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script(engine, MANY)
    context = make_context()

    def interrupt(size: int, seconds: float) -> int:
        del seconds
        context.stop.interrupted = True
        return size

    with monkeypatch.context() as patched:
        patched.setattr(_history, "FIRST", 4)
        patched.setattr(_history, "next_size", interrupt)
        with pytest.raises(Interrupted):
            maintenance.prune(context)
    assert len(ids(engine, "runs")) == 16
    maintenance.prune(make_context())
    assert len(ids(engine, "runs")) == 4


def test_the_walk_ends_where_everything_is_young(
    engine: Engine, make_context: Callable[..., Context], notes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_history, "FIRST", 4)
    monkeypatch.setattr(_history, "LARGEST", 4)
    run_script(engine, MANY)
    run_script(engine, MANY.replace(OLD_RUN, "now()"))
    maintenance.prune(make_context())
    pages = [step["note"] for step in notes.steps if step["note"].startswith("runs")]
    assert pages == [f"runs, up to {last}" for last in (4, 8, 12, 16, 20, 24)]


def test_a_run_that_somebody_is_moving_is_left_for_the_next_night(
    engine: Engine, make_context: Callable[..., Context]
) -> None:
    run_script(engine, MANY)
    with engine.connect() as connection:
        connection.execute(text("UPDATE runs SET state = 'waiting' WHERE id = 1"))
        maintenance.prune(make_context())
        connection.commit()
    assert ids(engine, "runs") == [1, 5, 10, 15, 20]


@pytest.mark.parametrize(("seconds", "size"), [(0.01, 2_000), (0.3, 1_000), (0.6, 500), (60, 500)])
def test_the_size_of_a_page_follows_the_clock(seconds: float, size: int) -> None:
    assert _history.next_size(1_000, seconds) == size
    assert _history.next_size(1, 60) == 1
    assert _history.next_size(_history.LARGEST, 0) == _history.LARGEST


def test_ended_redrives_go_with_their_runs_and_open_ones_stay(
    engine: Engine, make_context: Callable[..., Context]
) -> None:
    run_script(
        engine,
        """
        INSERT INTO redrives (selection, created_by, stop_at, ended_at)
        SELECT '--job a.b', 'kim', 20, CASE WHEN n > 1 THEN now() - interval '91 days' END
        FROM generate_series(1, 12) n;
        INSERT INTO redriven (redrive_id, run_id) VALUES (1, 1), (2, 2)
        """,
    )
    result = maintenance.prune(make_context()) or {}
    assert result["redrives"] == 11
    assert ids(engine, "redrives") == [1]


def test_what_was_rejected_goes_after_a_week_and_what_was_genuine_stays(
    engine: Engine, make_context: Callable[..., Context]
) -> None:
    run_script(
        engine,
        """
        INSERT INTO events (source, external_id, type, verdict, headers, body, received_at)
        SELECT 'mill', n::text, '', (ARRAY['accepted', 'ignored', 'malformed', 'rejected', 'rejected'])[n], '{}', '',
            now() - CASE WHEN n = 5 THEN interval '6 days' ELSE interval '8 days' END
        FROM generate_series(1, 5) n
        """,
    )
    result = maintenance.prune(make_context()) or {}
    assert (result["rejected"], result["events"]) == (1, 0)
    assert ids(engine, "events") == [1, 2, 3, 5]


def test_a_finished_batch_stays_as_long_as_one_of_its_members(
    engine: Engine, make_context: Callable[..., Context]
) -> None:
    run_script(
        engine,
        """
        INSERT INTO batches (name, total, finished_at)
        SELECT 'b', 1, CASE WHEN n > 1 THEN now() - interval '91 days' END FROM generate_series(1, 3) n;
        INSERT INTO runs (job, queue, args, state, max_attempts, batch_id) VALUES ('a.b', 'q', '{}', 'dead', 1, 3)
        """,
    )
    result = maintenance.prune(make_context()) or {}
    assert result["batches"] == 1
    assert ids(engine, "batches") == [1, 3]


def test_stopped_processes_and_recorded_slots_go_in_their_time(
    engine: Engine, make_context: Callable[..., Context]
) -> None:
    run_script(
        engine,
        """
        INSERT INTO processes (kind, host, pid, version, stopped_at) VALUES
            ('worker', 'h', 1, '1', now() - interval '8 days'), ('worker', 'h', 2, '1', now()),
            ('worker', 'h', 3, '1', NULL);
        INSERT INTO schedules (name, rule, zone, next_fire_at) VALUES ('a.b', 'every 60 s', 'UTC', now());
        INSERT INTO runs (id, job, queue, args, state, max_attempts) VALUES (1, 'a.b', 'q', '{}', 'waiting', 1);
        INSERT INTO slots (schedule, fire_at, outcome, run_id, recorded_at) VALUES
            ('a.b', now(), 'ran', 9, now() - interval '91 days'), ('a.b', now() - interval '1 s', 'ran', 9, now()),
            ('a.b', now() - interval '2 s', 'ran', 1, now() - interval '91 days')
        """,
    )
    result = maintenance.prune(make_context()) or {}
    assert (result["processes"], result["slots"]) == (1, 1)
    assert ids(engine, "processes") == [2, 3]
    assert ids(engine, "slots") == [2, 3]


def test_of_canaries_nothing_is_kept_for_long_not_even_the_dead(
    engine: Engine, make_context: Callable[..., Context]
) -> None:
    run_script(
        engine,
        """
        INSERT INTO schedules (name, rule, zone, next_fire_at) VALUES
            ('canary.q', 'every 1 min', 'UTC', now()), ('canaries.count', 'every 1 min', 'UTC', now());
        INSERT INTO runs (id, job, queue, args, state, max_attempts, finished_at) VALUES
            (1, 'canary.q', 'q', '{}', 'succeeded', 3, now() - interval '49 h'),
            (2, 'canary.q', 'q', '{}', 'dead', 3, now() - interval '49 h'),
            (3, 'canary.q', 'q', '{}', 'waiting', 3, NULL),
            (4, 'canary.q', 'q', '{}', 'cancelled', 3, now() - interval '47 h'),
            (5, 'canaries.count', 'q', '{}', 'succeeded', 3, now() - interval '49 h');
        INSERT INTO slots (schedule, fire_at, outcome, run_id, recorded_at) VALUES
            ('canary.q', now() - interval '1 s', 'ran', 1, now() - interval '49 h'),
            ('canary.q', now() - interval '2 s', 'ran', 3, now() - interval '49 h'),
            ('canary.q', now() - interval '3 s', 'ran', 4, now() - interval '47 h'),
            ('canaries.count', now(), 'ran', 5, now() - interval '49 h')
        """,
    )
    result = maintenance.prune(make_context()) or {}
    assert (result["runs"], result["canaries"], result["canary_slots"]) == (0, 2, 1)
    assert ids(engine, "runs") == [3, 4, 5]
    assert ids(engine, "slots") == [2, 3, 4]
    maintenance.prune(make_context(), canaries=1)
    assert ids(engine, "runs") == [3, 5]


def test_an_event_stays_while_its_run_may_be_run_again(engine: Engine, make_context: Callable[..., Context]) -> None:
    run_script(
        engine,
        """
        INSERT INTO runs (id, job, queue, args, state, max_attempts) VALUES (1, 'a.b', 'q', '{}', 'dead', 1);
        INSERT INTO events (source, external_id, type, verdict, headers, body, run_id, received_at) VALUES
            ('w', 'm1', 't', 'accepted', '{}', '', 7, now() - interval '91 days'),
            ('w', 'm2', 't', 'accepted', '{}', '', 1, now() - interval '91 days'),
            ('w', 'm3', 't', 'ignored', '{}', '', NULL, now() - interval '91 days'),
            ('w', 'm4', 't', 'accepted', '{}', '', 7, now())
        """,
    )
    result = maintenance.prune(make_context()) or {}
    assert result["events"] == 2
    assert ids(engine, "events") == [2, 4]
