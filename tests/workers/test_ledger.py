"""The moves of runs, each tried from the states it may leave and from those it may not."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from threading import Barrier

import pytest
from sqlalchemy import Engine

from tests.workers import rows
from tests.workers.trial_jobs import effect
from workers import ledger
from workers.endings import describe
from workers.ledger import Claim, Ending

JOB = effect.name
BROKEN = {"outcome": "failed", "counts": True, "error": "broken", "error_class": "RuntimeError", "traceback": "line 1"}


def enqueue(engine: Engine, how_many: int = 1) -> list[int]:
    with engine.begin() as connection:
        return [effect.enqueue(connection, key=str(number)) for number in range(how_many)]


def worker(engine: Engine) -> int:
    with engine.begin() as connection:
        return rows.enter(connection)


def take(engine: Engine, process: int, *ids: int) -> list[Claim]:
    return rows.claim(engine, process, *ids, jobs=[JOB])


def finish(engine: Engine, *endings: Ending) -> int:
    with engine.begin() as connection:
        return ledger.finish(connection, endings)


def again(run_id: int, attempt: int = 1, delay: float = 0.0) -> Ending:
    return Ending(run_id, attempt, state="waiting", delay=delay, **BROKEN)  # type: ignore[arg-type]


def done(run_id: int, attempt: int = 1) -> Ending:
    return Ending(run_id, attempt, state="succeeded", outcome="succeeded", result={"pieces": 3})


@pytest.mark.parametrize("state", ["waiting", "queued"])
def test_a_claim_takes_a_due_run_that_waits_or_was_pushed(engine: Engine, state: str) -> None:
    (run_id,) = enqueue(engine)
    rows.change(engine, "UPDATE runs SET state = :state", state=state)
    process = worker(engine)
    (claimed,) = take(engine, process, run_id)
    assert (claimed.run_id, claimed.job, claimed.args, claimed.attempt) == (run_id, JOB, {"key": "0"}, 1)
    row = rows.run_row(engine, run_id)
    assert (row.state, row.process_id, row.attempt) == ("running", process, 1)
    assert row.started_at is not None


@pytest.mark.parametrize("state", ["running", "succeeded", "dead", "cancelled"])
def test_a_claim_refuses_a_run_that_somebody_holds_or_that_has_ended(engine: Engine, state: str) -> None:
    (run_id,) = enqueue(engine)
    rows.change(engine, "UPDATE runs SET state = :state", state=state)
    assert take(engine, worker(engine), run_id) == []
    assert rows.run_row(engine, run_id).attempt == 0


def test_a_claim_refuses_what_is_not_due_and_takes_it_once_it_is(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    rows.change(engine, "UPDATE runs SET due_at = now() + interval '1 hour'")
    process = worker(engine)
    assert take(engine, process, run_id) == []
    rows.change(engine, "UPDATE runs SET due_at = now() - interval '1 ms'")
    assert len(take(engine, process, run_id)) == 1


def test_a_claim_refuses_a_paused_queue_and_takes_the_run_once_it_is_resumed(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    rows.change(engine, "INSERT INTO queues VALUES ('trial', now(), 'ada', 'provider migrates')")
    process = worker(engine)
    assert take(engine, process, run_id) == []
    rows.change(engine, "UPDATE queues SET paused_at = NULL")
    assert len(take(engine, process, run_id)) == 1


def test_a_claim_leaves_a_job_it_does_not_know_to_others(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    assert rows.claim(engine, worker(engine), run_id, jobs=["some.other"]) == []
    assert rows.state(engine, run_id) == "waiting"


def test_a_process_that_was_taken_for_dead_claims_nothing_under_its_old_row(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    process = worker(engine)
    rows.change(engine, "UPDATE processes SET stopped_at = now()")
    assert take(engine, process, run_id) == []
    assert len(take(engine, worker(engine), run_id)) == 1


def test_two_claims_of_overlapping_sets_give_each_run_once(engine: Engine) -> None:
    ids = enqueue(engine, 200)
    barrier = Barrier(4)
    processes = [worker(engine) for _ in range(4)]
    shares = [ids[:150], ids[50:], list(reversed(ids)), ids[::2]]

    def one(process: int, share: list[int]) -> list[int]:
        barrier.wait(20)
        return [claimed.run_id for claimed in take(engine, process, *share)]

    with ThreadPoolExecutor(4) as pool:
        taken = list(chain.from_iterable(pool.map(one, processes, shares)))
    assert sorted(taken) == ids


def test_a_claim_waits_for_a_relay_that_has_pushed_and_not_committed(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    process = worker(engine)
    with ThreadPoolExecutor(1) as pool, engine.connect() as relay:
        assert [due.run_id for due in ledger.take_due(relay, {"trial": 10})] == [run_id]
        claiming = pool.submit(take, engine, process, run_id)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        rows.until(lambda: rows.one(engine, waiting) == 1)
        relay.commit()
        assert [claimed.run_id for claimed in claiming.result(20)] == [run_id]


def test_a_claim_forgets_what_an_earlier_attempt_left(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    rows.change(engine, "UPDATE runs SET error = 'old', progress = '{}', result = '{}', pushes = 7")
    take(engine, worker(engine), run_id)
    row = rows.run_row(engine, run_id)
    assert (row.error, row.progress, row.result, row.pushes) == (None, None, None, 0)


def test_a_success_is_recorded_with_its_attempt(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    process = worker(engine)
    take(engine, process, run_id)
    assert finish(engine, done(run_id)) == 1
    row = rows.run_row(engine, run_id)
    assert (row.state, row.result, row.failures, row.error) == ("succeeded", {"pieces": 3}, 0, None)
    assert row.finished_at is not None
    (attempt,) = rows.attempts(engine, run_id)
    assert (attempt.number, attempt.process_id, attempt.outcome) == (1, process, "succeeded")
    assert attempt.started_at == row.started_at


def test_a_failure_waits_for_its_delay_and_counts(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    take(engine, worker(engine), run_id)
    finish(engine, again(run_id, delay=60))
    row = rows.run_row(engine, run_id)
    assert (row.state, row.failures, row.error, row.finished_at) == ("waiting", 1, "broken", None)
    assert rows.one(engine, "SELECT due_at BETWEEN now() + '55 s' AND now() + '60 s' FROM runs")
    (attempt,) = rows.attempts(engine, run_id)
    assert (attempt.outcome, attempt.error_class, attempt.traceback) == ("failed", "RuntimeError", "line 1")


def test_a_snooze_burns_nothing(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    take(engine, worker(engine), run_id)
    finish(engine, Ending(run_id, 1, state="waiting", outcome="snoozed", delay=5, error="asked for patience"))
    row = rows.run_row(engine, run_id)
    assert (row.state, row.failures, row.attempt) == ("waiting", 0, 1)


@pytest.mark.parametrize("attempt", [0, 2])
def test_an_ending_of_another_attempt_changes_nothing(engine: Engine, attempt: int) -> None:
    (run_id,) = enqueue(engine)
    take(engine, worker(engine), run_id)
    assert finish(engine, done(run_id, attempt)) == 0
    assert rows.state(engine, run_id) == "running"
    assert rows.attempts(engine, run_id) == []


def test_a_second_ending_of_an_attempt_changes_nothing(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    take(engine, worker(engine), run_id)
    assert finish(engine, done(run_id)) == 1
    assert finish(engine, again(run_id)) == 0
    assert (rows.state(engine, run_id), rows.outcomes(engine, run_id)) == ("succeeded", ["succeeded"])


def test_of_two_endings_of_one_attempt_in_a_set_the_first_counts(engine: Engine) -> None:
    first, second = enqueue(engine, 2)
    take(engine, worker(engine), first, second)
    assert finish(engine, done(first), again(first), done(second)) == 2
    assert (rows.outcomes(engine, first), rows.outcomes(engine, second)) == (["succeeded"], ["succeeded"])


def test_a_zombie_cannot_end_the_attempt_of_its_successor(engine: Engine) -> None:
    """Its worker froze, the run was taken back and claimed anew; its late ending comes with the successor's."""
    (run_id,) = enqueue(engine)
    take(engine, worker(engine), run_id)
    rows.change(engine, "UPDATE runs SET state = 'waiting'")
    take(engine, worker(engine), run_id)
    assert finish(engine, again(run_id, 1)) == 0
    assert rows.state(engine, run_id) == "running"
    assert finish(engine, again(run_id, 1), done(run_id, 2)) == 1
    assert [(a.number, a.outcome) for a in rows.attempts(engine, run_id)] == [(2, "succeeded")]


def test_a_retry_of_a_run_whose_cancel_was_requested_ends_as_cancelled(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    take(engine, worker(engine), run_id)
    rows.change(engine, "UPDATE runs SET cancel_requested_at = now()")
    finish(engine, again(run_id, delay=60))
    row = rows.run_row(engine, run_id)
    assert (row.state, row.cancel_requested_at) == ("cancelled", None)
    assert row.finished_at is not None


def test_a_cancel_that_commits_while_the_ending_waits_for_the_row_is_seen(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    take(engine, worker(engine), run_id)
    locked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as operator:
            operator.exec_driver_sql("UPDATE runs SET cancel_requested_at = now()")
            ending = pool.submit(finish, engine, again(run_id))
            rows.until(lambda: rows.one(engine, locked) == 1)
        assert ending.result(20) == 1
    assert rows.state(engine, run_id) == "cancelled"


def test_a_success_stays_a_success_although_a_cancel_was_requested(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    take(engine, worker(engine), run_id)
    rows.change(engine, "UPDATE runs SET cancel_requested_at = now()")
    finish(engine, done(run_id))
    assert rows.state(engine, run_id) == "succeeded"


def test_each_attempt_has_a_row_of_its_own(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    process = worker(engine)
    for attempt in (1, 2):
        take(engine, process, run_id)
        finish(engine, again(run_id, attempt))
    take(engine, process, run_id)
    finish(engine, done(run_id, 3))
    found = [(a.number, a.outcome) for a in rows.attempts(engine, run_id)]
    assert found == [(1, "failed"), (2, "failed"), (3, "succeeded")]
    assert rows.run_row(engine, run_id).failures == 2


def test_a_run_may_be_snoozed_more_often_than_two_bytes_can_count(engine: Engine) -> None:
    (run_id,) = enqueue(engine)
    rows.change(engine, "UPDATE runs SET attempt = 32767, pushes = 32767")
    with engine.begin() as connection:
        ledger.take_due(connection, {"trial": 10})
    (claimed,) = take(engine, worker(engine), run_id)
    with engine.begin() as connection:
        line = {"run_id": run_id, "attempt": claimed.attempt, "said": 0.0, "line": "here", "fields": None}
        ledger.write_lines(connection, [line])
    assert (claimed.attempt, finish(engine, done(run_id, claimed.attempt))) == (32_768, 1)


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("zero \x00 here", "zero \ufffd here"),
        ("half \ud800 a pair", "half ? a pair"),
        ("the letters \\u0000", "the letters \\u0000"),
        ("\\\x00 and \\\\\x00\x00", "\\\ufffd and \\\\\ufffd\ufffd"),
        ("Grüße 🐟", "Grüße 🐟"),
    ],
)
def test_odd_characters_in_an_error_survive(engine: Engine, words: str, kept: str) -> None:
    (run_id,) = enqueue(engine)
    take(engine, worker(engine), run_id)
    ending = Ending(run_id, 1, state="dead", outcome="failed", error=words, result={"words": words})
    assert finish(engine, ending) == 1
    row = rows.run_row(engine, run_id)
    assert (row.error, row.result) == (kept, {"words": kept})


def test_a_long_error_is_cut_in_its_middle() -> None:
    cut = describe(RuntimeError("a" * 9_000 + "b" * 9_000))
    assert len(cut) <= ledger.ERROR_LIMIT
    assert cut.startswith("aaa")
    assert cut.endswith("bbb")
    assert "characters left out" in cut


def test_what_is_due_is_taken_oldest_first_and_counted(engine: Engine) -> None:
    ids = enqueue(engine, 3)
    rows.change(engine, "UPDATE runs SET due_at = now() - id * interval '1 s'")
    with engine.begin() as connection:
        assert [due.run_id for due in ledger.take_due(connection, {"trial": 2})] == [ids[2], ids[1]]
    with engine.begin() as connection:
        assert [(due.run_id, due.pushes) for due in ledger.take_due(connection, {"trial": 9})] == [(ids[0], 1)]
    with engine.begin() as connection:
        assert ledger.take_due(connection, {"trial": 9}) == []


def test_a_key_holds_one_run_until_it_is_claimed(engine: Engine) -> None:
    with engine.begin() as connection:
        first = effect.options(unique_key="sync").enqueue(connection, key="a")
        assert effect.options(unique_key="sync").enqueue(connection, key="b") == first
        assert effect.options(unique_key="other").enqueue(connection, key="b") != first
    take(engine, worker(engine), first)
    with engine.begin() as connection:
        assert effect.options(unique_key="sync").enqueue(connection, key="c") > first


def test_many_callers_of_one_key_get_one_run(engine: Engine) -> None:
    barrier = Barrier(6)

    def one(_: int) -> int:
        barrier.wait(20)
        with engine.begin() as connection:
            return effect.options(unique_key="sync").enqueue(connection, key="a")

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(one, range(6)))) == 1


def test_a_caller_that_rolls_back_leaves_no_run(engine: Engine) -> None:
    with engine.connect() as connection:
        effect.enqueue(connection, key="a")
        connection.rollback()
    assert rows.one(engine, "SELECT count(*) FROM runs") == 0


def test_a_claim_waits_for_a_change_that_was_folded_into_its_run(engine: Engine) -> None:
    """Somebody changed something and found a run waiting under the key: that run must see the change."""
    with engine.begin() as connection:
        run_id = effect.options(unique_key="a").enqueue(connection, key="a")
    process = worker(engine)
    with engine.connect() as changing, ThreadPoolExecutor(1) as pool:
        assert effect.options(unique_key="a").enqueue(changing, key="a") == run_id
        claiming = pool.submit(take, engine, process, run_id)
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        rows.until(lambda: rows.one(engine, waits) == 1)
        assert not claiming.done()
        changing.commit()
        assert len(claiming.result(20)) == 1
