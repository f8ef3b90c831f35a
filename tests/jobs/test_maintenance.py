"""The ledger is added up, and only what nobody will ask for again is thrown away."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text

import jobs
from jobs import Context, maintenance

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


def test_only_old_succeeded_runs_go_and_their_attempts_with_them(
    engine: Engine, make_context: Callable[..., Context]
) -> None:
    run_script(
        engine,
        f"""
        INSERT INTO runs (id, job, queue, args, state, max_attempts, finished_at) VALUES
            (1, 'a.b', 'q', '{{}}', 'succeeded', 1, {OLD_RUN}), (2, 'a.b', 'q', '{{}}', 'dead', 1, {OLD_RUN}),
            (3, 'a.b', 'q', '{{}}', 'cancelled', 1, {OLD_RUN}), (4, 'a.b', 'q', '{{}}', 'succeeded', 1, now()),
            (5, 'a.b', 'q', '{{}}', 'waiting', 1, NULL);
        INSERT INTO attempts (run_id, number, started_at, outcome) VALUES (1, 1, now(), 'succeeded');
        """,
    )
    result = maintenance.prune(make_context()) or {}
    assert result["runs"] == 1
    assert ids(engine, "runs") == [2, 3, 4, 5]
    assert ids(engine, "attempts") == []


def test_a_long_list_goes_in_batches(
    engine: Engine, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "TOGETHER", 3)
    run_script(
        engine,
        f"""
        INSERT INTO runs (job, queue, args, state, max_attempts, finished_at)
        SELECT 'a.b', 'q', '{{}}', 'succeeded', 1, {OLD_RUN} FROM generate_series(1, 10)
        """,
    )
    result = maintenance.prune(make_context()) or {}
    assert result["runs"] == 10
    assert ids(engine, "runs") == []


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
