"""One pure decision for every error there is."""

import inspect
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import integrations
from integrations import (
    BadDelivery,
    BadSignature,
    CircuitOpen,
    CursorExpired,
    IntegrationError,
    NotFound,
    OutOfBudget,
    Rejected,
    Throttled,
    Unauthorized,
    Unavailable,
)
from jobs import Backoff, Cancel, Interrupted, Snooze
from jobs._policy import DONE, INTERRUPTED, LONGEST_SNOOZE, Decision, decide, is_retried, nearest
from models import MOVES, Outcome, State

RETRY = (Outcome.FAILED, State.WAITING, True)
SNOOZE = (Outcome.SNOOZED, State.WAITING, False)
DEAD = (Outcome.FAILED, State.DEAD, True)

TABLE: list[tuple[BaseException, tuple[Outcome, State, bool]]] = [
    (IntegrationError("x", upstream="u"), RETRY),
    (Unavailable("x", upstream="u"), RETRY),
    (Throttled("x", upstream="u", retry_after=7), SNOOZE),
    (CircuitOpen("x", upstream="u", retry_after=7), SNOOZE),
    (OutOfBudget("x", upstream="u", retry_after=7), SNOOZE),
    (Rejected("x", upstream="u", status=422), DEAD),
    (Unauthorized("x", upstream="u", status=401), DEAD),
    (NotFound("x", upstream="u", status=404), DEAD),
    (CursorExpired("x", upstream="u", status=410), DEAD),
    (BadSignature("x", upstream="u", reason="stale"), RETRY),
    (BadDelivery("x", upstream="u"), RETRY),
    (Snooze(7, "x"), SNOOZE),
    (Cancel("x"), (Outcome.CANCELLED, State.CANCELLED, False)),
    (Interrupted("x"), (Outcome.SHUTDOWN, State.WAITING, False)),
    (RuntimeError("x"), RETRY),
    (SystemExit(1), RETRY),
    (KeyboardInterrupt(), RETRY),
]


def judge(
    error: BaseException, failures: int = 0, max_attempts: int = 3, *, timed_out: bool = False, seed: int = 1
) -> Decision:
    return decide(
        error,
        failures=failures,
        max_attempts=max_attempts,
        backoff=Backoff(first=8, longest=100),
        random=Random(seed),
        timed_out=timed_out,
    )


@pytest.mark.parametrize(("error", "fate"), TABLE, ids=lambda value: type(value).__name__)
def test_every_error_has_its_fate(error: BaseException, fate: tuple[Outcome, State, bool]) -> None:
    decision = judge(error)
    assert (decision.outcome, decision.state, decision.counts) == fate


def test_the_table_knows_every_error_an_integration_raises_and_every_word_a_job_has() -> None:
    judged = {type(error) for error, _ in TABLE}
    members = [getattr(integrations, name) for name in integrations.__all__]
    assert {m for m in members if inspect.isclass(m) and issubclass(m, Exception)} <= judged
    assert {Snooze, Cancel, Interrupted} <= judged


@pytest.mark.parametrize("fate", [decision for _, decision in TABLE])
def test_every_fate_is_a_legal_move(fate: tuple[Outcome, State, bool]) -> None:
    assert fate[1] in MOVES[State.RUNNING]
    assert DONE.state in MOVES[State.RUNNING]


def test_a_last_failure_is_the_end_and_one_before_it_is_not() -> None:
    assert judge(RuntimeError(), failures=1).state == State.WAITING
    assert judge(RuntimeError(), failures=2).state == State.DEAD
    assert judge(Unavailable("x", upstream="u"), failures=2).state == State.DEAD
    assert judge(RuntimeError(), failures=0, max_attempts=1).state == State.DEAD


def test_a_snooze_is_never_the_end() -> None:
    assert judge(Throttled("x", upstream="u", retry_after=7), failures=2).state == State.WAITING
    assert judge(Snooze(7, "x"), failures=99).delay == 7


def test_those_who_wait_for_one_circuit_do_not_all_come_back_at_once() -> None:
    for wait, most in ((2.0, 3.0), (100.0, 125.0)):
        error = CircuitOpen("x", upstream="u", retry_after=wait)
        delays = {judge(error, seed=seed).delay for seed in range(50)}
        assert wait <= min(delays) < max(delays) <= most
        assert max(delays) - min(delays) > (most - wait) / 2


def test_a_time_limit_is_a_failure_with_a_name_of_its_own() -> None:
    assert judge(RuntimeError(), timed_out=True).outcome == Outcome.TIMED_OUT
    assert judge(RuntimeError(), timed_out=True).counts
    assert judge(RuntimeError(), failures=2, timed_out=True).state == State.DEAD


def test_a_shutdown_is_due_again_at_once() -> None:
    assert judge(Interrupted()) == INTERRUPTED
    assert (INTERRUPTED.delay, INTERRUPTED.counts) == (0, False)


@given(st.floats())
def test_a_snooze_ends_within_a_month_whatever_was_asked_for(seconds: float) -> None:
    for error in (Snooze(seconds, "x"), Throttled("x", upstream="u", retry_after=seconds)):
        assert 0 <= judge(error).delay <= LONGEST_SNOOZE


@given(st.integers(1, 10_000), st.floats(0.01, 1e4), st.floats(0.01, 1e6), st.integers())
def test_a_pause_doubles_up_to_the_longest_and_is_cut_by_up_to_half(
    failures: int, first: float, longest: float, seed: int
) -> None:
    full = min(longest, first * 2.0 ** min(failures - 1, 30))
    assert full / 2 <= Backoff(first, longest).pause(failures, Random(seed)) <= full


def test_two_runs_that_failed_together_do_not_come_back_together() -> None:
    random = Random(1)
    assert len({Backoff().pause(3, random) for _ in range(100)}) > 90


OWN = {Unavailable: Backoff(1000, 1000), OSError: Backoff(2000, 2000), Exception: Backoff(3000, 3000)}


@pytest.mark.parametrize(
    ("error", "longest"),
    [
        (Unavailable("x", upstream="u"), 1000),
        (FileNotFoundError(), 2000),
        (BadDelivery("x", upstream="u"), 3000),
        (SystemExit(1), 8),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_pause_is_that_of_the_class_nearest_to_the_error(error: BaseException, longest: float) -> None:
    decision = decide(error, failures=0, max_attempts=3, backoff=Backoff(8), backoffs=OWN, random=Random(1))
    assert longest / 2 <= decision.delay <= longest


def test_a_time_limit_is_looked_up_as_a_timeout_whatever_ended_the_attempt() -> None:
    assert nearest({TimeoutError: Backoff(7)}, TimeoutError) == Backoff(7)
    chosen = decide(
        SystemExit(),
        failures=0,
        max_attempts=3,
        backoff=Backoff(8),
        backoffs={TimeoutError: Backoff(1000, 1000)},
        random=Random(1),
        timed_out=True,
    )
    assert chosen.delay >= 500


@pytest.mark.parametrize(("error", "fate"), TABLE, ids=lambda value: type(value).__name__)
def test_a_pause_of_ones_own_is_for_errors_that_are_retried(
    error: BaseException, fate: tuple[Outcome, State, bool]
) -> None:
    assert is_retried(type(error)) == (fate == RETRY)
