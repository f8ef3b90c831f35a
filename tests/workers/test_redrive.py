"""Dead runs that are run again with care: some first, so many a second, and back again when too many fail."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text

from models import State
from tests.workers import rows
from tests.workers.conftest import Working
from tests.workers.trial_jobs import effect, fail
from workers import actions, ledger, redrive
from workers.actions import Care, Refused, Selection
from workers.ledger import Ending
from workers.redrive import AHEAD, SAMPLE, WINDOW, Standing, judge, room

DEAD = text("""
    INSERT INTO runs (job, queue, args, state, attempt, failures, deaths, max_attempts, error, finished_at)
    SELECT :job, 'trial', jsonb_build_object('key', n::text), 'dead', 10, 9, 1, 10, 'broken ' || n,
        now() - n * interval '1 h'
    FROM generate_series(1, :count) AS n ORDER BY n RETURNING id
""")


def dead(engine: Engine, count: int, job: str = effect.name) -> list[int]:
    with engine.begin() as connection:
        return sorted(connection.execute(DEAD, {"count": count, "job": job}).scalars())


def begin(engine: Engine, selection: Selection | None = None, **care: Any) -> int:
    with engine.begin() as connection:
        chosen = selection or Selection(states=(State.DEAD,))
        return actions.begin_redrive(connection, chosen, Care(**care), by="kim")


def look(engine: Engine, number: int) -> dict[str, Any]:
    with engine.connect() as connection:
        (found,) = actions.redrives(connection, number)
    return found


def counts(engine: Engine, number: int) -> tuple[int, ...]:
    """Moved, succeeded, failed, under way, to go."""
    found = look(engine, number)
    return tuple(found[name] for name in ("moved", "succeeded", "failed", "under_way", "to_go"))


def moved(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT id FROM runs WHERE state IN ('waiting', 'queued') ORDER BY id"))
        return list(found.scalars())


def run_them(engine: Engine, ids: list[int], state: State = State.SUCCEEDED) -> None:
    """Let runs have one attempt, as a worker does."""
    with engine.begin() as connection:
        claims = ledger.claim(connection, ids, rows.enter(connection), [effect.name])
    assert [claim.run_id for claim in claims] == ids
    failed = state != State.SUCCEEDED
    with engine.begin() as connection:
        ledger.finish(
            connection,
            (
                Ending(c.run_id, c.attempt, state, "failed" if failed else "succeeded", delay=3_600, counts=failed)
                for c in claims
            ),
        )


def due_now(engine: Engine) -> None:
    rows.change(engine, "UPDATE runs SET due_at = now() WHERE state = 'waiting'")


def test_without_limits_all_runs_are_moved_at_once_and_the_report_adds_up(engine: Engine) -> None:
    ids = dead(engine, 3)
    number = begin(engine)
    assert counts(engine, number) == (0, 0, 0, 0, 3)
    redrive.advance(engine)
    assert moved(engine) == ids
    run_them(engine, ids)
    redrive.advance(engine)
    found = look(engine, number)
    assert (found["succeeded"], found["to_go"], found["why"]) == (3, 0, "every run was tried")
    assert found["ended_at"] is not None
    assert found["stopped_at"] is None


def test_the_rest_stays_dead_until_the_canary_has_come_to_something(engine: Engine) -> None:
    ids = dead(engine, 5)
    number = begin(engine, canary=2)
    for _ in range(2):
        redrive.advance(engine)
        assert moved(engine) == ids[:2]
    run_them(engine, ids[:1])
    redrive.advance(engine)
    assert moved(engine) == ids[1:2], "one of the two is still out"
    run_them(engine, ids[1:2])
    redrive.advance(engine)
    assert moved(engine) == ids[2:]
    assert counts(engine, number) == (5, 2, 0, 3, 0)


@pytest.mark.parametrize("state", [State.WAITING, State.DEAD])
def test_a_canary_that_fails_again_stops_it_and_the_rest_was_never_touched(engine: Engine, state: State) -> None:
    ids = dead(engine, 4)
    number = begin(engine, canary=1)
    before = rows.run_row(engine, ids[3])
    redrive.advance(engine)
    run_them(engine, ids[:1], state)
    redrive.advance(engine)
    found = look(engine, number)
    assert found["why"] == "1 of 1 tried runs failed again, more than 20 % allow"
    assert (found["failed"], found["kept"], found["to_go"]) == (1, 3, 0)
    assert found["ended_at"] is not None
    assert rows.run_row(engine, ids[3]) == before


def test_what_was_moved_and_not_started_is_put_back_as_it_was(engine: Engine) -> None:
    ids = dead(engine, 30)
    before = {run_id: rows.run_row(engine, run_id) for run_id in ids}
    number = begin(engine, stop_at=20)
    redrive.advance(engine)
    rows.change(engine, "UPDATE runs SET state = 'queued', queued_at = now(), pushes = 1 WHERE id = :id", id=ids[29])
    run_them(engine, ids[:5], State.WAITING)
    with engine.begin() as connection:
        ledger.claim(connection, ids[5:6], rows.enter(connection), [effect.name])
    redrive.advance(engine)
    for run_id in ids[6:]:
        now, then = rows.run_row(engine, run_id), before[run_id]
        assert (now.state, now.error, now.failures, now.deaths) == ("dead", then.error, 9, 1)
        assert (now.finished_at, now.attempt, now.queued_at) == (then.finished_at, then.attempt, None)
    found = look(engine, number)
    assert (found["moved"], found["failed"], found["kept"], found["under_way"]) == (6, 5, 24, 1)
    assert found["ended_at"] is None, "one of them runs"


def test_a_stopped_redrive_ends_with_the_last_run_that_was_under_way(engine: Engine) -> None:
    ids = dead(engine, 2)
    number = begin(engine, stop_at=0)
    redrive.advance(engine)
    run_them(engine, ids[:1], State.DEAD)
    with engine.begin() as connection:
        (claim,) = ledger.claim(connection, ids[1:], rows.enter(connection), [effect.name])
    redrive.advance(engine)
    with engine.begin() as connection:
        ledger.finish(connection, [Ending(claim.run_id, claim.attempt, State.SUCCEEDED, "succeeded")])
    redrive.advance(engine)
    found = look(engine, number)
    assert (found["failed"], found["succeeded"], found["failed_dead"]) == (1, 1, 1)
    assert found["ended_at"] is not None


def test_the_message_of_a_run_that_was_put_back_finds_nothing_to_claim(engine: Engine) -> None:
    ids = dead(engine, 1)
    number = begin(engine)
    redrive.advance(engine)
    with engine.begin() as connection:
        actions.stop_redrive(connection, number, by="kim")
        assert ledger.claim(connection, ids, rows.enter(connection), [effect.name]) == []


def test_under_a_rate_runs_become_due_one_after_the_other(engine: Engine) -> None:
    ids = dead(engine, 100)
    number = begin(engine, rate=4)
    redrive.advance(engine)
    redrive.advance(engine)
    assert 0 < len(moved(engine)) <= AHEAD * 4 + 1
    gaps = """
        SELECT extract(epoch FROM due_at - lag(due_at) OVER (ORDER BY id))::float8 FROM runs WHERE state = 'waiting'
    """
    with engine.connect() as connection:
        between = [gap for gap in connection.execute(text(gaps)).scalars() if gap is not None]
    assert min(between) > 0.249
    rows.change(engine, "UPDATE redrives SET next_due_at = now() - interval '1 hour'")
    redrive.advance(engine)
    late = rows.one(engine, "SELECT count(*) FROM runs WHERE state = 'waiting' AND due_at < now() - interval '1 min'")
    assert late == 0, "an hour without a relay is not made up for"
    assert look(engine, number)["moved"] == len(moved(engine)) < len(ids)


def test_a_rate_below_one_a_second_moves_one_at_a_time(engine: Engine) -> None:
    dead(engine, 3)
    begin(engine, rate=0.01)
    for _ in range(3):
        redrive.advance(engine)
    assert len(moved(engine)) == 1


def test_a_run_that_somebody_else_moved_is_passed_over(engine: Engine) -> None:
    ids = dead(engine, 4)
    number = begin(engine, canary=1)
    rows.change(engine, "UPDATE runs SET state = 'cancelled' WHERE id = :id", id=ids[0])
    redrive.advance(engine)
    redrive.advance(engine)
    assert moved(engine) == ids[1:2], "the canary is one that was really moved"
    with engine.begin() as connection:
        actions.move(connection, actions.CANCEL, Selection(ids=(ids[1],)), by="lee")
    redrive.advance(engine)
    rows.change(engine, "DELETE FROM runs WHERE id = :id", id=ids[2])
    run_them(engine, ids[3:])
    redrive.advance(engine)
    found = look(engine, number)
    assert (found["passed"], found["gone"], found["succeeded"], found["ended_at"] is not None) == (1, 2, 1, True)


def test_a_run_is_in_one_open_redrive_at_a_time(engine: Engine) -> None:
    dead(engine, 10)

    def take(_: int) -> int:
        try:
            return begin(engine)
        except Refused:
            return 0

    with ThreadPoolExecutor(4) as pool:
        assert sum(number > 0 for number in pool.map(take, range(4))) == 1
    number = int(rows.one(engine, "SELECT id FROM redrives"))
    with engine.begin() as connection:
        assert actions.stop_redrive(connection, number, by="kim")
        assert not actions.stop_redrive(connection, number, by="kim")
    assert look(engine, number)["why"] == "kim stopped it"
    assert begin(engine) > number


def test_relays_that_step_at_once_move_each_run_once(engine: Engine) -> None:
    dead(engine, 200)
    number = begin(engine, canary=50)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: redrive.advance(engine), range(8)))
    assert len(moved(engine)) == look(engine, number)["moved"] == 50


def test_a_step_that_dies_before_its_commit_is_done_again(engine: Engine) -> None:
    ids = dead(engine, 3)
    number = begin(engine)
    with engine.connect() as connection:
        redrive.step(connection, number)
        connection.rollback()
    assert moved(engine) == []
    redrive.advance(engine)
    assert moved(engine) == ids
    assert counts(engine, number) == (3, 0, 0, 3, 0)


def test_a_snooze_is_no_verdict(engine: Engine) -> None:
    ids = dead(engine, 2)
    number = begin(engine, canary=1)
    redrive.advance(engine)
    with engine.begin() as connection:
        (claim,) = ledger.claim(connection, ids[:1], rows.enter(connection), [effect.name])
        ledger.finish(connection, [Ending(claim.run_id, claim.attempt, State.WAITING, "snoozed", error="throttled")])
    redrive.advance(engine)
    assert counts(engine, number) == (1, 0, 0, 1, 1)


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (Selection(), "say which runs"),
        (Selection(states=(State.SUCCEEDED,)), "are for dead runs"),
        (Selection(job="no.job"), "no dead run matches"),
    ],
)
def test_a_redrive_of_nothing_is_refused(engine: Engine, selection: Selection, words: str) -> None:
    dead(engine, 1)
    with pytest.raises(Refused, match=words):
        begin(engine, selection)
    assert rows.one(engine, "SELECT count(*) FROM redrives") == 0


def test_a_redrive_is_in_the_audit_with_its_limits(engine: Engine) -> None:
    dead(engine, 2)
    number = begin(engine, Selection(job=effect.name), canary=1, rate=2.5)
    with engine.connect() as connection:
        entry = connection.execute(text("SELECT actor, action, target, count, details FROM audit")).one()
    details = {"redrive": number, "canary": 1, "rate": 2.5, "stop_at": 20}
    assert tuple(entry) == ("kim", "runs retry", f"--job {effect.name}", 2, details)


def standing(**values: Any) -> Standing:
    facts: dict[str, Any] = {"total": 1_000, "moved": 0, "succeeded": 0, "failed": 0, "gone": 0, "canary": None}
    return Standing(**(facts | {"rate": None, "stop_at": 20, "stopped": False, "ahead": 0.0} | values))


@pytest.mark.parametrize(
    ("now", "stops"),
    [
        (standing(moved=500), False),
        (standing(moved=500, failed=1), False),  # one of one is no share yet
        (standing(moved=500, failed=SAMPLE // 5), False),
        (standing(moved=500, failed=SAMPLE // 5 + 1), True),
        (standing(moved=500, failed=20, succeeded=80), False),
        (standing(moved=500, failed=21, succeeded=79), True),
        (standing(total=2, moved=2, failed=1), True),
        (standing(moved=10, canary=10, failed=2), False),
        (standing(moved=10, canary=10, failed=3), True),  # whatever the other seven come to
        (standing(moved=1, canary=1, failed=1), True),  # the whole canary
        (standing(moved=10, canary=10, failed=2, succeeded=8), False),
        (standing(moved=500, stop_at=0, failed=1, succeeded=400), True),
        (standing(moved=500, stop_at=100, failed=500), False),
    ],
)
def test_it_stops_when_more_than_the_share_failed(now: Standing, stops: bool) -> None:
    assert (judge(now) is not None) == stops


@pytest.mark.parametrize(
    ("now", "moves"),
    [
        (standing(), WINDOW),
        (standing(moved=WINDOW), 0),
        (standing(moved=WINDOW, succeeded=7), 7),
        (standing(canary=10), 10),
        (standing(canary=10, moved=4), 6),
        (standing(canary=10, moved=10, succeeded=9), 0),
        (standing(canary=10, moved=10, succeeded=9, gone=1), WINDOW),
        (standing(rate=10), 10 * AHEAD),
        (standing(rate=10, ahead=AHEAD), 0),
        (standing(rate=10, ahead=AHEAD + 3), 0),
        (standing(rate=0.01), 1),
        (standing(rate=10, canary=3), 3),
    ],
)
def test_how_many_are_moved_at_once(now: Standing, moves: int) -> None:
    assert room(now) == moves


@pytest.mark.usefixtures("relaying")
def test_a_relay_and_a_worker_bring_a_redrive_to_its_end_without_anybody(engine: Engine, working: Working) -> None:
    good = dead(engine, 8)
    number = begin(engine, canary=2, rate=50)
    with working():
        rows.until(lambda: look(engine, number)["ended_at"] is not None, seconds=60)
    assert counts(engine, number) == (8, 8, 0, 0, 0)
    assert {rows.state(engine, run_id) for run_id in good} == {"succeeded"}
    bad = dead(engine, 5, fail.name)
    rows.change(engine, "UPDATE runs SET args = '{}' WHERE job = :job", job=fail.name)
    number = begin(engine, Selection(job=fail.name), canary=1)
    with working():
        rows.until(lambda: look(engine, number)["ended_at"] is not None, seconds=60)
    assert look(engine, number)["why"] == "1 of 1 tried runs failed again, more than 20 % allow"
    assert {rows.state(engine, run_id) for run_id in bad[1:]} == {"dead"}
