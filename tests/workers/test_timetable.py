"""Why did it not run at four: one true sentence for any schedule and any moment."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from tests.workers import rows
from workers import timetable
from workers.actions import Refused

Asking = Callable[..., str]

MADE = """
    INSERT INTO schedules (name, rule, zone, next_fire_at, declared_rule, declared_zone)
    VALUES ('a.b', 'cron 0 4 * * *', 'Europe/Berlin', timestamptz '2026-11-26 04:00 Europe/Berlin',
        'cron 0 4 * * *', 'Europe/Berlin')
"""
SLOT = """
    INSERT INTO slots (schedule, fire_at, outcome, run_id, note, recorded_at)
    VALUES ('a.b', timestamptz '2026-11-25 04:00 Europe/Berlin', :outcome, :run, :note,
        timestamptz '2026-11-25 04:00 Europe/Berlin' + :late * interval '1 s')
"""


@pytest.fixture
def ask(engine: Engine) -> Asking:
    """Return a function that asks about a moment of the schedule."""
    rows.change(engine, MADE)

    def explain(moment: str) -> str:
        with engine.connect() as connection:
            return timetable.explain(connection, "a.b", moment).sentence

    return explain


@pytest.mark.parametrize(
    ("outcome", "note", "words"),
    [
        ("ran", None, "it ran as run 1; that run is dead (it broke)"),
        ("coalesced", "run 1 had not ended and does its work", "run 1 did its work too: run 1 had not ended"),
        ("skipped_paused", "kim had paused it: stocktaking", "it was skipped: kim had paused it: stocktaking"),
        ("missed", "nobody recorded it for 3 h", "it was missed, and not made up for: nobody recorded it for 3 h"),
    ],
)
def test_a_slot_says_what_became_of_its_fire(
    engine: Engine, ask: Asking, outcome: str, note: str | None, words: str
) -> None:
    rows.change(engine, "INSERT INTO runs (job, queue, max_attempts, args) VALUES ('a.b', 'q', 1, '{}')")
    rows.change(engine, "UPDATE runs SET state = 'dead', error = 'it broke'")
    run = rows.one(engine, "SELECT id FROM runs") if outcome in {"ran", "coalesced"} else None
    rows.change(engine, SLOT, outcome=outcome, run=run, note=note, late=0)
    assert ask("2026-11-25T04:00").startswith(f"a.b, Wed 2026-11-25 04:00:00 CET: {words}")


def test_a_late_record_says_how_late(engine: Engine, ask: Asking) -> None:
    rows.change(engine, SLOT, outcome="skipped_calendar", run=None, note="its calendar leaves this day out", late=7200)
    assert ask("2026-11-25 04:00").endswith("its calendar leaves this day out; recorded 2 h late")


def test_a_moment_that_was_not_planned_says_when_the_next_one_is(ask: Asking) -> None:
    told = ask("2026-11-25T05:00")
    assert "not planned then" in told
    assert "2026-11-26 03:00:00 UTC" in told


def test_a_planned_fire_that_nobody_has_recorded_says_so(engine: Engine, ask: Asking) -> None:
    rows.change(engine, "UPDATE schedules SET next_fire_at = timestamptz '2026-11-20 04:00 Europe/Berlin'")
    assert "nobody has recorded it yet" in ask("2026-11-20T04:00")


def test_a_fire_to_come_lies_ahead_and_one_long_ago_is_forgotten(ask: Asking) -> None:
    assert "it lies ahead, in" in ask("2199-11-26T04:00")
    assert "longer ago than slots are kept" in ask("2020-11-26T04:00")


def test_a_fire_before_the_schedule_was_changed_names_who_changed_it(engine: Engine, ask: Asking) -> None:
    rows.change(engine, "INSERT INTO audit (actor, action, target, count) VALUES ('kim', 'schedules change', 'a.b', 1)")
    assert "kim changed its rule at" in ask("2020-11-26T04:00")


def test_a_schedule_or_a_moment_that_is_none_is_refused(engine: Engine, ask: Asking) -> None:
    with pytest.raises(Refused, match="no date and time"):
        ask("yesterday")
    for far in ("0001-01-01T00:00+14:00", "9999-12-31T23:59"):
        with pytest.raises(Refused):
            ask(far)
    with engine.connect() as connection, pytest.raises(Refused, match=r"there is no schedule called 'c\.d'"):
        timetable.explain(connection, "c.d", "2026-11-25T04:00")
