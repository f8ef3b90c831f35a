"""The life of an attempt, in a worker as it is served: real threads, a real relay, real databases."""

import time
from dataclasses import replace
from threading import get_ident

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from integrations.warehouse import Warehouse
from jobs import Job
from tests.workers import rows
from tests.workers.conftest import Working
from tests.workers.trial_jobs import (
    awkward,
    choosy,
    effect,
    endless,
    fail,
    meet,
    needy,
    patient,
    stubborn,
    talkative,
)
from workers import executor, ledger
from workers.executor import Executor
from workers.held import AtWork, Held
from workers.ledger import Claim, Ending
from workers.outcomes import Outcomes
from workers.process import Presence, Running
from workers.runtime import Runtime
from workers.window import Window

pytestmark = pytest.mark.usefixtures("relaying")


def enqueue(engine: Engine, job: Job[...], **arguments: object) -> int:
    with engine.begin() as connection:
        return job.enqueue(connection, **arguments)


def finished(engine: Engine, job: Job[...], **arguments: object) -> int:
    """Enqueue a run and wait for its end."""
    run_id = enqueue(engine, job, **arguments)
    rows.until(lambda: rows.run_row(engine, run_id).finished_at is not None)
    return run_id


def test_runs_are_executed_once_and_their_results_kept(engine: Engine, working: Working) -> None:
    with engine.begin() as connection:
        ids = [effect.enqueue(connection, key=f"k{number}") for number in range(60)]
    with working(threads=4):
        rows.until(lambda: not rows.unfinished(engine))
    assert rows.one(engine, "SELECT array_agg(run_id ORDER BY run_id) FROM effects") == ids
    assert rows.run_row(engine, ids[7]).result == {"key": "k7"}
    assert rows.one(engine, "SELECT count(*) FROM attempts WHERE outcome = 'succeeded'") == 60


def test_a_failure_is_tried_again_after_a_pause_until_it_succeeds(engine: Engine, working: Working) -> None:
    with working():
        run_id = finished(engine, fail, times=2)
    row = rows.run_row(engine, run_id)
    assert (row.state, row.failures, row.error, row.result) == ("succeeded", 2, None, {"attempts": 3})
    assert rows.outcomes(engine, run_id) == ["failed", "failed", "succeeded"]
    first, second, _ = rows.attempts(engine, run_id)
    assert (first.error_class, first.error) == ("RuntimeError", "broken for the 1. time")
    assert "in fail" in first.traceback
    assert (second.started_at - first.finished_at).total_seconds() >= 0.02


def test_a_class_of_errors_may_have_a_pause_of_its_own(engine: Engine, working: Working) -> None:
    with working():
        run_id = enqueue(engine, choosy, broken_file=True)
        assert rows.state(engine, finished(engine, choosy, broken_file=False)) == "succeeded"
        rows.until(lambda: rows.outcomes(engine, run_id) == ["failed"])
    assert rows.one(engine, "SELECT due_at > now() + interval '30 min' FROM runs WHERE id = :id", id=run_id)


def test_a_failure_that_stays_is_dead_once_its_allowance_is_used_up(engine: Engine, working: Working) -> None:
    with working():
        run_id = finished(engine, fail)
    row = rows.run_row(engine, run_id)
    assert (row.state, row.failures, row.error) == ("dead", 3, "broken for the 3. time")
    assert rows.outcomes(engine, run_id) == ["failed"] * 3


FATES = {
    ("unavailable", 1): ("succeeded", ["failed", "succeeded"], 1),
    ("throttled", 4): ("succeeded", ["snoozed"] * 4 + ["succeeded"], 0),
    ("rejected", 9): ("dead", ["failed"], 1),
}


@pytest.mark.parametrize(("error", "times"), FATES)
def test_an_upstreams_trouble_decides_the_fate(engine: Engine, working: Working, error: str, times: int) -> None:
    with working():
        run_id = finished(engine, meet, error=error, times=times)
    row = rows.run_row(engine, run_id)
    assert (row.state, rows.outcomes(engine, run_id), row.failures) == FATES[error, times]


def test_a_job_over_its_time_limit_is_ended_and_says_so(engine: Engine, working: Working) -> None:
    with working():
        run_id = finished(engine, endless)
    row = rows.run_row(engine, run_id)
    assert (row.state, row.error) == ("dead", "took longer than its time limit of 0.3 s")
    assert rows.outcomes(engine, run_id) == ["timed_out"]


def test_a_job_that_cannot_be_interrupted_ends_as_timed_out_or_done_and_never_both(
    engine: Engine, working: Working
) -> None:
    with working():
        run_id = finished(engine, stubborn)
        assert finished(engine, effect, key="the thread lives")
    assert rows.outcomes(engine, run_id) in (["timed_out"], ["succeeded"])


def test_a_running_run_that_an_operator_cancels_ends_at_its_next_check(
    engine: Engine, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.process.BEAT", 0.1)
    with working():
        run_id = enqueue(engine, patient)
        rows.until(lambda: rows.state(engine, run_id) == "running")
        rows.change(engine, "UPDATE runs SET cancel_requested_at = now()")
        rows.until(lambda: rows.state(engine, run_id) == "cancelled")
    row = rows.run_row(engine, run_id)
    assert (row.error, row.failures) == ("cancelled by an operator while it ran", 0)
    assert rows.outcomes(engine, run_id) == ["cancelled"]


def test_a_cancel_that_names_another_attempt_stops_nobody(engine: Engine, working: Working) -> None:
    with working() as broker:
        run_id = enqueue(engine, patient, checks=30)
        rows.until(lambda: rows.state(engine, run_id) == "running")
        broker.holding.executor.compare([Running(run_id, 2, unwanted=True, age=0)])
        rows.until(lambda: rows.state(engine, run_id) == "succeeded")


def test_a_run_whose_claim_never_reached_the_worker_is_given_back(
    engine: Engine, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.process.BEAT", 0.1)
    with working() as broker:
        run_id = enqueue(engine, effect, key="a")
        with engine.begin() as connection:
            ledger.claim(connection, [run_id], broker.holding.presence.id, [effect.name])
            connection.execute(text("UPDATE runs SET started_at = now() - interval '11 seconds'"))
        rows.until(lambda: rows.outcomes(engine, run_id) == ["lost", "succeeded"])
    assert rows.run_row(engine, run_id).failures == 0
    error = rows.one(engine, "SELECT error FROM attempts WHERE outcome = 'lost'")
    assert error == "its claim was committed, but the worker never heard of it"


def test_a_run_that_works_for_long_is_not_given_back(
    engine: Engine, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.process.BEAT", 0.1)
    with working():
        run_id = enqueue(engine, patient, checks=60)
        rows.until(lambda: rows.state(engine, run_id) == "running")
        rows.change(engine, "UPDATE runs SET started_at = now() - interval '1 hour'")
        rows.until(lambda: rows.state(engine, run_id) == "succeeded")
    assert rows.outcomes(engine, run_id) == ["succeeded"]


def test_progress_is_seen_while_a_run_runs(engine: Engine, working: Working) -> None:
    with working():
        run_id = enqueue(engine, patient)
        rows.until(lambda: (rows.run_row(engine, run_id).progress or {}).get("done", 0) > 0)
        row = rows.run_row(engine, run_id)
        assert row.state == "running"
        assert (row.progress["total"], row.progress["note"]) == (2_000, "looking around")
        early = row.progress["done"]
        rows.until(lambda: rows.run_row(engine, run_id).progress["done"] > early)


def test_a_stop_puts_running_runs_back_uncounted(engine: Engine, working: Working) -> None:
    with working(threads=2):
        ids = [enqueue(engine, patient) for _ in range(3)]
        rows.until(lambda: rows.one(engine, "SELECT count(*) FROM runs WHERE state = 'running'") == 2)
    for run_id in ids:
        row = rows.run_row(engine, run_id)
        assert (row.state in {"waiting", "queued"}, row.failures) == (True, 0)
        assert rows.outcomes(engine, run_id) in (["shutdown"], [])
    assert rows.one(engine, "SELECT count(*) FROM attempts WHERE outcome = 'shutdown'") == 2
    assert rows.one(engine, "SELECT count(*) FROM processes WHERE kind = 'worker' AND stopped_at IS NULL") == 0


def test_a_run_that_does_not_look_up_in_the_grace_is_put_back_and_its_late_outcome_ignored(
    engine: Engine, working: Working
) -> None:
    with working(threads=1, grace=0.2):
        run_id = enqueue(engine, effect, key="slow", seconds=1.5)
        rows.until(lambda: rows.state(engine, run_id) == "running")
    assert rows.outcomes(engine, run_id) == ["shutdown"]
    with working(threads=1):
        rows.until(lambda: rows.state(engine, run_id) == "succeeded")
        assert [(a.number, a.outcome) for a in rows.attempts(engine, run_id)] == [(1, "shutdown"), (2, "succeeded")]


def test_a_stopping_worker_claims_nothing_more(engine: Engine, working: Working) -> None:
    with working(threads=2):
        first = enqueue(engine, effect, key="first", seconds=1.0)
        rows.until(lambda: rows.state(engine, first) == "running")
        with engine.begin() as connection:
            later = effect.options(due_at=rows.one(engine, "SELECT now() + interval '0.3 s'"))
            second = later.enqueue(connection, key="second")
    assert rows.state(engine, first) == "succeeded"
    assert rows.outcomes(engine, second) == []


def test_the_log_is_kept_up_to_its_cap_and_secrets_are_not(engine: Engine, working: Working) -> None:
    with working():
        run_id = finished(engine, talkative)
        count = "SELECT count(*) FROM log_lines"
        rows.until(lambda: rows.one(engine, count) == 1_000)
    with engine.connect() as connection:
        lines = list(connection.execute(text("SELECT run_id, attempt, line, fields FROM log_lines ORDER BY id")))
    assert {(line.run_id, line.attempt) for line in lines} == {(run_id, 1)}
    assert lines[-1].line == "the log is full: later lines of this attempt are dropped"
    assert lines[0].line == "line 0"
    assert lines[0].fields == {"token": "<secret>"}
    assert "never seen" not in repr(lines)


def test_an_error_that_cannot_be_printed_is_still_an_error(engine: Engine, working: Working) -> None:
    with working():
        run_id = finished(engine, awkward, how="unprintable")
    row = rows.run_row(engine, run_id)
    assert (row.state, row.error) == ("dead", "its message could not be read")
    assert rows.attempts(engine, run_id)[0].error_class == "Unprintable"


def test_a_job_that_wants_to_exit_fails_and_takes_nobody_with_it(engine: Engine, working: Working) -> None:
    with working(threads=1):
        run_id = finished(engine, awkward, how="exit")
        assert finished(engine, effect, key="the thread lives")
    assert (rows.state(engine, run_id), rows.attempts(engine, run_id)[0].error_class) == ("dead", "SystemExit")


def test_odd_characters_survive_and_secrets_do_not(engine: Engine, working: Working) -> None:
    with working():
        run_id = finished(engine, awkward, how="zero")
    (attempt,) = rows.attempts(engine, run_id)
    assert attempt.error == "a zero \ufffd, the letters \\u0000, half a pair ?, and <secret>"
    assert "half a pair" in attempt.traceback
    assert "hunter2" not in repr(attempt)


def test_a_result_that_is_too_large_is_left_out_and_the_run_succeeds(engine: Engine, working: Working) -> None:
    with working():
        run_id = finished(engine, awkward, how="large")
    row = rows.run_row(engine, run_id)
    assert row.state == "succeeded"
    assert "16384 are kept" in row.result["left_out"]


def test_a_result_of_odd_values_is_kept(engine: Engine, working: Working) -> None:
    with working():
        run_id = finished(engine, awkward, how="result")
    row = rows.run_row(engine, run_id)
    assert row.state == "succeeded"
    assert (row.result["half a pair"], row.result["zero"], row.result["letters"]) == ("?", "\ufffd", "\\u0000")


def test_words_that_json_does_not_know_stop_nobody(engine: Engine, working: Working) -> None:
    with working():
        run_id = finished(engine, awkward, how="words")
        assert finished(engine, effect, key="the writer lives")
        rows.until(lambda: rows.one(engine, "SELECT count(*) FROM log_lines") == 1)
    assert rows.state(engine, run_id) == "succeeded"
    assert rows.one(engine, "SELECT line FROM log_lines") == "half a pair ? and the letters \\u0000"
    assert rows.one(engine, "SELECT fields -> 'odd' -> 'pair' FROM log_lines") == ["<secret>"]


def test_a_run_that_needs_a_paused_upstream_is_snoozed_and_goes_on_once_it_is_resumed(
    engine: Engine, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "PAUSED_SNOOZE", 0.2)
    pause = "INSERT INTO upstreams (name, paused_at, paused_by, reason) VALUES (:name, now(), 'ada', 'their move')"
    rows.change(engine, pause, name=Warehouse.name)
    with working():
        run_id = enqueue(engine, needy)
        rows.until(lambda: len(rows.outcomes(engine, run_id)) >= 2)
        assert set(rows.outcomes(engine, run_id)) == {"snoozed"}
        assert rows.attempts(engine, run_id)[0].error == "upstream warehouse is paused by ada: their move"
        assert rows.run_row(engine, run_id).failures == 0
        rows.change(engine, "UPDATE upstreams SET paused_at = NULL")
        rows.until(lambda: rows.state(engine, run_id) == "succeeded")


def test_a_worker_that_was_taken_for_dead_goes_on_under_a_new_row(engine: Engine) -> None:
    presence = Presence(engine, "worker").start()
    try:
        old = presence.id
        rows.change(engine, "UPDATE processes SET stopped_at = now()")
        presence.beat()
        assert presence.id != old
        assert rows.one(engine, "SELECT id FROM processes WHERE stopped_at IS NULL") == presence.id
    finally:
        presence.stop()
    assert rows.one(engine, "SELECT count(*) FROM processes WHERE stopped_at IS NULL AND kind = 'worker'") == 0


def test_a_heartbeat_is_renewed_while_all_threads_are_busy(
    engine: Engine, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.process.BEAT", 0.1)
    beat = "SELECT heartbeat_at FROM processes WHERE kind = 'worker'"
    with working(threads=1):
        run_id = enqueue(engine, effect, key="busy", seconds=1.0)
        rows.until(lambda: rows.state(engine, run_id) == "running")
        before = rows.one(engine, beat)
        deadline = time.monotonic() + 20
        while rows.one(engine, beat) == before:
            assert time.monotonic() < deadline
        assert rows.state(engine, run_id) == "running"


@pytest.fixture
def idle(runtime: Runtime) -> Executor:
    """An executor that nobody has given anything to."""
    outcomes = Outcomes(runtime.machinery)
    return Executor(runtime, outcomes, Window(4), threads=4, process_id=lambda: 1)


def claimed(attempt: int) -> Claim:
    return Claim(7, effect.name, effect.queue, {"key": "a"}, attempt, failures=0, max_attempts=3, slot_at=None)


@pytest.mark.parametrize(
    ("seconds", "error", "lines"),
    [(0.2, None, []), (1.5, None, ["info"]), (0.0, "refused", ["warning"])],
    ids=["short and well", "long and well", "short and failed"],
)
def test_the_process_logs_attempts_that_were_long_or_went_wrong(
    seconds: float, error: str | None, lines: list[str]
) -> None:
    ending = Ending(7, 1, state="succeeded", outcome="failed" if error else "succeeded", error=error)
    with capture_logs() as said:
        executor._log(claimed(1), ending, seconds)
    assert [line["log_level"] for line in said] == lines


def test_the_end_of_an_attempt_that_was_taken_away_leaves_its_successor_alone(idle: Executor) -> None:
    """The process was thought dead, its run was taken back, and it claimed the run again while the first went on."""
    assert idle._window.take(0) == 4
    idle.hold([claimed(1)])
    former = idle._held[7]
    idle.hold([claimed(2)])
    assert former.stop.interrupted
    idle._record(AtWork([former], get_ident(), 60), [Ending(7, 1, state="succeeded", outcome="succeeded")])
    assert idle._held[7].claim.attempt == 2
    assert idle._window.held == 3
    idle.put_back()
    assert idle._held == {}
    assert idle._window.held == 2


def test_a_time_limit_that_strikes_as_a_job_returns_ends_that_attempt_and_not_the_next(
    idle: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    endings: list[Ending] = []
    monkeypatch.setattr(idle._outcomes, "ending", endings.append)

    def late(held: list[Held]) -> list[Ending]:
        if held[0].claim.run_id == 7:
            idle.end_late()
        return [Ending(held[0].claim.run_id, 1, state="succeeded", outcome="succeeded")]

    monkeypatch.setattr(idle, "_attempt", late)
    idle.hold([claimed(1), replace(claimed(1), run_id=8)])
    idle._at_work[get_ident()] = work = AtWork([idle._held[7]], get_ident(), limit=0.0)
    idle.execute(work)
    idle.execute(AtWork([idle._held[8]], get_ident(), limit=60.0))
    assert [(ending.run_id, ending.outcome) for ending in endings] == [(7, "timed_out"), (8, "succeeded")]


def test_nothing_is_raised_in_a_thread_between_two_attempts(idle: Executor) -> None:
    idle.hold([claimed(1)])
    idle._at_work[get_ident()] = work = AtWork([idle._held[7]], get_ident(), limit=0.0)
    idle.end_late()
    assert not work.struck


def test_an_attempt_that_the_ledger_no_longer_counts_as_ours_is_told_to_stop(idle: Executor) -> None:
    idle.hold([claimed(1)])
    held = idle._held[7]
    idle.compare([])
    assert not held.stop.interrupted  # the claim may be younger than what the ledger was asked
    held.since -= executor.ANSWER_LOST + 1
    idle.compare([Running(7, 1, unwanted=False, age=11)])
    assert not held.stop.interrupted
    idle.compare([])
    assert held.stop.interrupted
