"""Firing schedules: every planned fire ends in one row, whoever records it and however late."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

import jobs
from jobs import ONCE, SKIP, Context, Job, Missed, Overlap, Rule, UnknownJob, cron, each, every, job
from jobs import _job as registry
from jobs._fire_policy import LATE
from tests.statements import counting
from tests.workers import rows
from tests.workers.trial_jobs import effect
from workers import declaring, ledger, slots
from workers.plan import MOST_MISSED
from workers.slots import Fired

RULE = every(minutes=1)
NAME = "test_slots.chime"


def chime(context: Context) -> None:
    """Strike."""
    del context


@pytest.fixture(autouse=True)
def chiming(monkeypatch: pytest.MonkeyPatch) -> Job[[]]:
    """The only job with a schedule."""
    monkeypatch.setattr(registry, "_registry", {effect.name: effect})
    return job(queue="trial", schedule=RULE)(chime)


@pytest.fixture
def late(engine: Engine) -> Callable[[str], None]:
    """Return a function that declares the schedule and lets it be due for that long."""

    def make(how_long: str) -> None:
        declare(engine)
        moment = "date_trunc('minute', now()) - CAST(:late AS interval)"
        rows.change(engine, f"UPDATE schedules SET next_fire_at = {moment}", late=how_long)

    return make


def plan(rule: Rule, *, limit: int | None = None) -> None:
    """Let the job fire by another rule."""
    registry._registry[NAME] = replace(registry._registry[NAME], schedule=rule, limit=limit)


def declare(engine: Engine) -> None:
    with engine.begin() as connection:
        declaring.declare(connection, jobs.all_jobs().values())


def take(engine: Engine) -> list[Fired]:
    with engine.begin() as connection:
        return slots.take_due(connection)


def recorded(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT * FROM slots ORDER BY fire_at")))


def schedule(engine: Engine, name: str = NAME) -> Any:
    with engine.connect() as connection:
        return connection.execute(text("SELECT * FROM schedules WHERE name = :name"), {"name": name}).one()


def test_a_declared_schedule_waits_for_its_next_fire(engine: Engine) -> None:
    declare(engine)
    row = schedule(engine)
    assert (row.rule, row.zone, row.retired_at) == (RULE.text, "UTC", None)
    assert rows.one(engine, "SELECT next_fire_at - now() BETWEEN '0 s' AND '60 s' FROM schedules")
    assert take(engine) == []


def test_a_due_schedule_leaves_one_slot_and_one_run_and_moves_on(engine: Engine, late: Callable[[str], None]) -> None:
    late("0")
    (fired,) = take(engine)
    (slot,) = recorded(engine)
    assert (fired.schedule, fired.outcome, slot.outcome, slot.run_id) == (NAME, "ran", "ran", fired.run_id)
    assert fired.run_id is not None
    run = rows.run_row(engine, fired.run_id)
    assert (run.job, run.schedule, run.slot_at, slot.fire_at) == (NAME, NAME, fired.fire_at, fired.fire_at)
    assert fired.lateness >= 0
    assert schedule(engine).next_fire_at > fired.fire_at
    assert take(engine) == []


def test_a_scheduler_that_dies_before_its_commit_leaves_nothing_and_the_next_one_fires(
    engine: Engine, late: Callable[[str], None]
) -> None:
    late("0")
    with engine.connect() as connection:
        assert len(slots.take_due(connection)) == 1
        connection.rollback()
    assert (recorded(engine), rows.unfinished(engine)) == ([], 0)
    assert [fired.outcome for fired in take(engine)] == ["ran"]


def test_many_schedulers_at_once_fire_once(engine: Engine, late: Callable[[str], None]) -> None:
    late("0")
    barrier = Barrier(5)

    def one(_: int) -> list[Fired]:
        barrier.wait(20)
        return take(engine)

    with ThreadPoolExecutor(5) as pool:
        assert sum(map(len, pool.map(one, range(5)))) == 1
    assert (len(recorded(engine)), rows.unfinished(engine)) == (1, 1)


def test_a_schedule_that_another_scheduler_is_firing_is_passed_over(
    engine: Engine, late: Callable[[str], None]
) -> None:
    late("0")
    with engine.begin() as other:
        assert len(slots.take_due(other)) == 1
        assert take(engine) == []


def test_the_same_slot_is_never_recorded_twice(engine: Engine, late: Callable[[str], None]) -> None:
    late("0")
    (fired,) = take(engine)
    rows.change(engine, "UPDATE schedules SET next_fire_at = :moment", moment=fired.fire_at)
    assert take(engine) == []
    assert (len(recorded(engine)), rows.unfinished(engine)) == (1, 1)
    assert schedule(engine).next_fire_at > fired.fire_at


def test_fires_missed_in_a_downtime_are_folded_into_the_last(engine: Engine, late: Callable[[str], None]) -> None:
    late("5 minutes")
    (fired,) = take(engine)
    found = recorded(engine)
    assert [slot.outcome for slot in found] == ["coalesced"] * 5 + ["ran"]
    assert {slot.run_id for slot in found} == {fired.run_id}
    assert found[-1].fire_at == fired.fire_at
    assert rows.unfinished(engine) == 1


def test_after_a_long_downtime_the_latest_fires_have_rows(engine: Engine, late: Callable[[str], None]) -> None:
    late("30 days")
    take(engine)
    found = recorded(engine)
    assert len(found) == MOST_MISSED + 1
    assert rows.one(engine, "SELECT now() - max(fire_at) < '2 minutes' FROM slots")
    assert rows.unfinished(engine) == 1


def test_a_fire_while_the_last_run_still_waits_is_folded_into_it(engine: Engine, late: Callable[[str], None]) -> None:
    late("1 minute")
    first = take(engine)[0]
    rows.change(engine, "UPDATE schedules SET next_fire_at = :moment + '1 s'", moment=first.fire_at)
    (second,) = take(engine)
    assert (second.outcome, second.run_id) == ("coalesced", first.run_id)
    assert rows.unfinished(engine) == 1


def test_a_fire_while_the_last_run_runs_is_folded_into_it_and_one_after_its_end_is_not(
    engine: Engine, late: Callable[[str], None]
) -> None:
    late("0")
    first = take(engine)[0]
    assert first.run_id is not None
    again = "UPDATE schedules SET next_fire_at = :moment + :later * interval '1 ms'"
    with engine.begin() as connection:
        assert ledger.claim(connection, [first.run_id], rows.enter(connection), [NAME])
    rows.change(engine, again, moment=first.fire_at, later=1)
    (second,) = take(engine)
    assert (second.outcome, second.run_id) == ("coalesced", first.run_id)
    rows.change(engine, "UPDATE runs SET state = 'succeeded'")
    rows.change(engine, again, moment=first.fire_at, later=2)
    (third,) = take(engine)
    assert third.outcome == "ran"
    assert third.run_id != first.run_id


def test_one_run_catches_up_when_even_the_last_fire_is_long_ago(engine: Engine, late: Callable[[str], None]) -> None:
    plan(every(minutes=7))
    late("20 minutes")
    rows.change(engine, "UPDATE schedules SET next_fire_at = now() - interval '10 minutes'")
    fired = take(engine)[0]
    assert recorded(engine)[-1].outcome == fired.outcome == ("caught_up" if fired.lateness > LATE else "ran")
    assert rows.unfinished(engine) == 1


def test_missed_fires_that_are_let_go_are_recorded_as_missed(engine: Engine, late: Callable[[str], None]) -> None:
    plan(every(minutes=1, missed=SKIP))
    late("5 minutes")
    (fired,) = take(engine)
    found = recorded(engine)
    assert [(slot.outcome, slot.run_id) for slot in found] == [("missed", None)] * 5 + [("ran", fired.run_id)]
    assert rows.unfinished(engine) == 1


def test_each_missed_fire_has_a_run_that_knows_what_it_is_for(engine: Engine, late: Callable[[str], None]) -> None:
    plan(every(minutes=1, missed=each(most=3)))
    late("5 minutes")
    take(engine)
    found = recorded(engine)
    assert [slot.outcome for slot in found] == ["missed"] * 2 + ["caught_up"] * 3 + ["ran"]
    with engine.connect() as connection:
        runs = list(connection.execute(text("SELECT id, slot_at FROM runs ORDER BY id")))
    assert [tuple(run) for run in runs] == [(slot.run_id, slot.fire_at) for slot in found[2:]]


def test_a_run_in_the_way_does_the_work_of_all_missed_fires(engine: Engine, late: Callable[[str], None]) -> None:
    plan(every(minutes=1, missed=each(most=3)))
    late("0")
    first = take(engine)[0]
    rows.change(engine, "UPDATE schedules SET next_fire_at = :moment - interval '90 s'", moment=first.fire_at)
    take(engine)
    assert {(slot.outcome, slot.run_id) for slot in recorded(engine) if slot.outcome != "ran"} <= {
        ("coalesced", first.run_id)
    }
    assert rows.unfinished(engine) == 1


def fire_again(engine: Engine, before: Fired, later: int) -> Fired:
    """Let the next fire be due some milliseconds after an earlier one, and take it."""
    again = "UPDATE schedules SET next_fire_at = :moment + :later * interval '1 ms'"
    rows.change(engine, again, moment=before.fire_at, later=later)
    return take(engine)[0]


def test_fires_may_run_side_by_side(engine: Engine, late: Callable[[str], None]) -> None:
    plan(every(minutes=1, overlap=Overlap.ALLOW))
    late("0")
    first = take(engine)[0]
    second = fire_again(engine, first, 1)
    assert (first.outcome, second.outcome) == ("ran", "ran")
    assert rows.unfinished(engine) == 2


def test_one_run_queues_behind_the_one_that_runs_and_further_fires_join_it(
    engine: Engine, late: Callable[[str], None]
) -> None:
    plan(every(minutes=1, overlap=Overlap.QUEUE), limit=1)
    late("0")
    first = take(engine)[0]
    rows.change(engine, "UPDATE runs SET state = 'running', attempt = 1, started_at = now()")
    second = fire_again(engine, first, 1)
    third = fire_again(engine, first, 2)
    assert (second.outcome, third.outcome, third.run_id) == ("ran", "coalesced", second.run_id)
    assert rows.unfinished(engine) == 2


@pytest.mark.parametrize(("state", "becomes"), [("waiting", "cancelled"), ("running", "running")])
def test_a_run_in_the_way_is_cancelled_for_a_new_one(
    engine: Engine, late: Callable[[str], None], state: str, becomes: str
) -> None:
    plan(every(minutes=1, overlap=Overlap.REPLACE))
    late("0")
    first = take(engine)[0]
    assert first.run_id is not None
    rows.change(engine, "UPDATE runs SET state = :state, started_at = now()", state=state)
    second = fire_again(engine, first, 1)
    old = rows.run_row(engine, first.run_id)
    assert (old.state, old.cancel_requested_at is not None, old.finished_at is None) == (
        becomes,
        True,
        becomes == "running",
    )
    assert (second.outcome, second.run_id == first.run_id) == ("ran", False)


def test_a_pause_ends_at_its_time_and_the_clock_is_in_the_audit(engine: Engine, late: Callable[[str], None]) -> None:
    plan(every(minutes=1, missed=each(most=9)))
    late("4 minutes")
    rows.change(
        engine,
        """
        UPDATE schedules SET paused_at = now() - interval '1 h', paused_by = 'ada', reason = 'they move',
            paused_until = date_trunc('minute', now()) - interval '2 minutes'
        """,
    )
    take(engine)
    became = [slot.outcome for slot in recorded(engine)]
    assert became == ["skipped_paused"] * 2 + ["caught_up"] * 2 + ["ran"]
    row = schedule(engine)
    assert (row.paused_at, row.paused_by, row.reason, row.paused_until) == (None, None, None, None)
    assert rows.one(engine, "SELECT actor FROM audit WHERE action = 'schedules resume'") == "the clock"


def test_a_pause_whose_time_has_not_come_goes_on(engine: Engine, late: Callable[[str], None]) -> None:
    late("0")
    rows.change(
        engine, "UPDATE schedules SET paused_at = now(), paused_by = 'ada', paused_until = now() + interval '1 h'"
    )
    assert take(engine)[0].outcome == "skipped_paused"
    assert schedule(engine).paused_by == "ada"


class Always:
    """Every day is a holiday."""

    def __contains__(self, day: object) -> bool:
        return isinstance(day, date)


def test_on_a_day_that_is_left_out_nothing_runs_and_the_slot_says_so(
    engine: Engine, late: Callable[[str], None]
) -> None:
    plan(every(minutes=1, excluding=Always()))
    late("3 minutes")
    (fired,) = take(engine)
    assert (fired.outcome, fired.run_id) == ("skipped_calendar", None)
    assert {slot.outcome for slot in recorded(engine)} == {"skipped_calendar"}
    assert rows.unfinished(engine) == 0


def test_a_jitter_does_not_date_a_run_back_that_makes_up_for_a_fire(
    engine: Engine, late: Callable[[str], None]
) -> None:
    plan(every(minutes=1, missed=each(most=9), jitter=1))
    late("5 minutes")
    take(engine)
    assert rows.one(engine, "SELECT count(*) FROM runs WHERE due_at < created_at - interval '1 s'") == 0


def test_a_jitter_moves_the_run_and_not_the_slot(engine: Engine, late: Callable[[str], None]) -> None:
    plan(every(minutes=1, jitter=3_600))
    late("0")
    (fired,) = take(engine)
    assert fired.run_id is not None
    run = rows.run_row(engine, fired.run_id)
    assert run.slot_at == fired.fire_at
    assert 0 < (run.due_at - fired.fire_at).total_seconds() < 3_600


def test_a_paused_schedule_records_that_it_skipped(engine: Engine, late: Callable[[str], None]) -> None:
    late("0")
    rows.change(engine, "UPDATE schedules SET paused_at = now(), paused_by = 'ada'")
    (fired,) = take(engine)
    assert (fired.outcome, fired.run_id) == ("skipped_paused", None)
    assert [slot.outcome for slot in recorded(engine)] == ["skipped_paused"]
    assert rows.unfinished(engine) == 0
    assert schedule(engine).next_fire_at > fired.fire_at


def test_a_paused_schedule_records_every_fire_it_missed_as_skipped(engine: Engine, late: Callable[[str], None]) -> None:
    late("150")
    rows.change(engine, "UPDATE schedules SET paused_at = now(), paused_by = 'ada'")
    take(engine)
    outcomes = [slot.outcome for slot in recorded(engine)]
    assert len(outcomes) > 1
    assert set(outcomes) == {"skipped_paused"}


def test_a_schedule_fired_by_hand_keeps_its_times(engine: Engine) -> None:
    declare(engine)
    before = schedule(engine).next_fire_at
    with engine.begin() as connection:
        run_id = slots.fire(connection, NAME)
        again = slots.fire(connection, NAME)
    assert [(slot.outcome, slot.run_id) for slot in recorded(engine)] == [
        ("fired_by_hand", run_id),
        ("fired_by_hand", again),
    ]
    assert rows.run_row(engine, run_id).schedule == NAME
    assert schedule(engine).next_fire_at == before


def test_only_what_has_a_schedule_can_be_fired(engine: Engine) -> None:
    with engine.begin() as connection:
        with pytest.raises(UnknownJob, match=r"has no schedule: `headrace run trial_jobs\.effect` starts it once"):
            slots.fire(connection, effect.name)
        with pytest.raises(UnknownJob, match="did you mean"):
            slots.fire(connection, "test_slots.chimes")


def test_a_rule_that_did_not_change_keeps_its_next_fire(engine: Engine, late: Callable[[str], None]) -> None:
    late("3 minutes")
    before = schedule(engine).next_fire_at
    declare(engine)
    assert schedule(engine).next_fire_at == before


def test_a_rule_that_changed_is_counted_from_now(
    engine: Engine, late: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    late("3 minutes")
    monkeypatch.setattr(registry, "_registry", {})
    job(schedule=cron("0 3 * * *", zone="Europe/Berlin"))(chime)
    declare(engine)
    row = schedule(engine)
    assert (row.rule, row.zone) == ("cron 0 3 * * *", "Europe/Berlin")
    assert take(engine) == []


def test_a_schedule_that_is_gone_from_the_code_is_retired_and_comes_back_without_a_backlog(
    engine: Engine, late: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    late("3 minutes")
    known = dict(registry._registry)
    monkeypatch.setattr(registry, "_registry", {effect.name: effect})
    declare(engine)
    assert schedule(engine).retired_at is not None
    assert take(engine) == []
    monkeypatch.setattr(registry, "_registry", known)
    declare(engine)
    assert schedule(engine).retired_at is None
    assert take(engine) == []


def test_the_clock_of_the_database_decides(engine: Engine, late: Callable[[str], None]) -> None:
    """A database whose clock stands still at an hour before the fire finds nothing due, whatever our clock says."""
    late("0")

    def behind(connection: Connection) -> list[Fired]:
        connection.execute(text("CREATE SCHEMA behind"))
        an_hour_ago = "SELECT pg_catalog.now() - interval '1 hour'"
        connection.execute(
            text(f"CREATE FUNCTION behind.now() RETURNS timestamptz LANGUAGE sql AS $$ {an_hour_ago} $$")
        )
        connection.execute(text("SET LOCAL search_path = behind, public, pg_catalog"))
        return slots.take_due(connection)

    with engine.begin() as connection:
        assert behind(connection) == []
    assert len(take(engine)) == 1


def test_a_later_declaration_brings_back_what_an_older_scheduler_retired(engine: Engine) -> None:
    declare(engine)
    rows.change(engine, "UPDATE schedules SET retired_at = now()")
    rows.change(engine, "INSERT INTO schedules (name, rule, zone, next_fire_at) VALUES ('a.newer', 'x', 'UTC', now())")
    with engine.begin() as connection:
        declaring.declare(connection, jobs.all_jobs().values())
    assert schedule(engine).retired_at is None
    assert rows.one(engine, "SELECT retired_at FROM schedules WHERE name = 'a.newer'") is None


#: Hourly, after a downtime that ends in between two fires; what became of those of the last hours, and how many ran.
DOWNTIMES = [
    (ONCE, "3 hours", {"coalesced": 2, "caught_up": 1}, 1),
    (ONCE, "3 days", {"coalesced": 71, "caught_up": 1}, 1),
    (SKIP, "3 hours", {"missed": 3}, 0),
    (SKIP, "3 days", {"missed": 72}, 0),
    (each(most=2), "3 hours", {"missed": 1, "caught_up": 2}, 2),
    (each(most=24, within=86_400), "3 days", {"missed": 48, "caught_up": 24}, 24),
    (each(most=1_000), "3 days", {"caught_up": 72}, 72),
]


@pytest.mark.parametrize(("missed", "downtime", "became", "runs"), DOWNTIMES)
def test_after_a_downtime_each_policy_yields_exactly_its_runs(
    engine: Engine, missed: Missed, downtime: str, became: dict[str, int], runs: int
) -> None:
    """The clock that is set is the database's: it is the one that decides."""
    plan(cron("0 * * * *", missed=missed))
    declare(engine)
    begin = rows.one(engine, "UPDATE schedules SET next_fire_at = date_trunc('hour', now()) RETURNING next_fire_at")
    with engine.begin() as connection:
        set_clock(connection, begin, downtime)
        slots.take_due(connection)
        connection.execute(text("RESET search_path"))
    found = recorded(engine)
    assert Counter(slot.outcome for slot in found) == became
    assert [slot.fire_at for slot in found] == [begin + timedelta(hours=hour) for hour in range(len(found))]
    assert rows.unfinished(engine) == runs
    assert rows.one(engine, "SELECT count(DISTINCT slot_at) FROM runs") == runs


def set_clock(connection: Connection, begin: datetime, later: str) -> None:
    """Let the database of this transaction have a clock that stands still before the fire at the downtime's end."""
    moment = f"timestamptz '{begin.isoformat()}' + interval '{later}' - interval '10 minutes'"
    clock = f"later.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT {moment} $$"
    connection.execute(text("CREATE SCHEMA IF NOT EXISTS later"))
    connection.execute(text(f"CREATE OR REPLACE FUNCTION {clock}"))
    connection.execute(text("SET LOCAL search_path = later, public, pg_catalog"))


def test_ten_or_a_thousand_schedules_take_the_same_number_of_statements(
    engine: Engine, late: Callable[[str], None]
) -> None:
    late("0")
    counts = []
    for many in (10, 1_000):
        rows.change(engine, "DELETE FROM schedules")
        rows.change(engine, MANY, many=many, job=NAME)
        with counting(engine) as statements:
            assert len(take(engine)) == many
        counts.append(len(statements))
        assert rows.one(engine, "SELECT count(*) FROM runs WHERE schedule LIKE 'many%'") == many
        rows.change(engine, "DELETE FROM runs")
    assert counts[0] == counts[1] <= 12


MANY = """
    INSERT INTO schedules (name, job, rule, zone, next_fire_at)
    SELECT 'many-' || i, :job, 'every 1 h', 'UTC', now() FROM generate_series(1, :many) AS i
"""


@pytest.mark.parametrize(("bound", "first"), [({"FIRES": 100}, 5), ({"PLANNING": 0.0}, 1)])
def test_after_a_downtime_one_transaction_takes_no_more_than_it_can_plan_and_the_next_ones_take_the_rest(
    engine: Engine, late: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, bound: dict[str, float], first: int
) -> None:
    late("0")
    rows.change(engine, "DELETE FROM schedules")
    rows.change(engine, MANY, many=12, job=NAME)
    rows.change(engine, "UPDATE schedules SET next_fire_at = date_trunc('hour', now()) - interval '23 hours'")
    for name, value in bound.items():
        monkeypatch.setattr(slots, name, value)
    taken = []
    while fired := take(engine):
        taken.append(len(fired))
    assert (taken[0], sum(taken)) == (first, 12)
    assert rows.one(engine, "SELECT count(*) FROM slots") == 12 * 24


def test_a_pause_that_has_ended_is_lifted_only_when_its_fires_are_recorded(
    engine: Engine, late: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    late("0")
    rows.change(engine, "DELETE FROM schedules")
    rows.change(engine, MANY, many=3, job=NAME)
    paused = "paused_at = now(), paused_by = 'kim', paused_until = now() - interval '1 s'"
    rows.change(engine, f"UPDATE schedules SET {paused}, next_fire_at = now() - interval '2 s'")
    monkeypatch.setattr(slots, "PLANNING", 0.0)
    while take(engine):
        pass
    assert {slot.outcome for slot in recorded(engine)} == {"skipped_paused"}
    assert rows.one(engine, "SELECT count(*) FROM schedules WHERE paused_at IS NOT NULL") == 0
