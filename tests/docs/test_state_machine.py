"""The tables of docs/state_machine.md say what the code does."""

import re
from collections.abc import Callable
from random import Random

import pytest
from dramatiq.middleware import TimeLimitExceeded

import integrations
from integrations import IntegrationError, Rejected, Throttled
from integrations._errors import BadSignature
from jobs import Backoff, Cancel, Interrupted, Snooze
from jobs._policy import Decision, decide
from models import MOVES, Outcome, State
from tests.docs import documents
from tests.docs.documents import ROOT

PAGE = ROOT / "docs" / "state_machine.md"
MOST = 3
OTHERS: dict[str, Callable[[], BaseException]] = {
    "Snooze": lambda: Snooze(60, "not yet"),
    "Cancel": lambda: Cancel("not at all"),
    "Interrupted": lambda: Interrupted("stopping"),
    "TimeLimitExceeded": TimeLimitExceeded,
    "Exception": lambda: Exception("a bug"),
}


def _words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _error(name: str) -> BaseException:
    kind = getattr(integrations, name, None)
    if kind is None:
        return OTHERS[name]()
    if issubclass(kind, Throttled):
        error: IntegrationError = kind("later", upstream="x", retry_after=60)
    elif issubclass(kind, Rejected):
        error = kind("no", upstream="x", status=400)
    elif issubclass(kind, BadSignature):
        error = kind("who?", upstream="x", reason="mismatch")
    else:
        error = kind("away", upstream="x")
    return error


def _judge(error: BaseException, failures: int) -> Decision:
    timed_out = isinstance(error, TimeLimitExceeded)
    return decide(error, failures=failures, max_attempts=MOST, backoff=Backoff(), random=Random(1), timed_out=timed_out)


def test_the_states_are_those_of_the_code() -> None:
    assert [_words(row[0])[0] for row in documents.rows(PAGE, "state")] == list(State)


def test_the_moves_are_those_of_the_code() -> None:
    told = [(_words(row[0])[0], _words(row[1])[0]) for row in documents.rows(PAGE, "from")]
    assert sorted(told) == sorted((start, end) for start, ends in MOVES.items() for end in ends)


def test_the_outcomes_are_those_of_the_code() -> None:
    assert [_words(row[0])[0] for row in documents.rows(PAGE, "outcome")] == list(Outcome)


@pytest.mark.parametrize("row", list(documents.rows(PAGE, "the job raised")), ids=lambda row: _words(row[0])[0])
def test_what_becomes_of_an_error_is_what_the_policy_decides(row: list[str]) -> None:
    raised, outcome, state, due, counts = row
    error = _error(_words(raised)[0])
    decided = _judge(error, failures=0)
    told = (_words(outcome)[0], _words(state)[0], counts == "yes", due in {"", "at once"})
    assert told == (decided.outcome, decided.state, decided.counts, decided.delay == 0)
    last = _judge(error, failures=MOST - 1)
    assert last.state == (State.DEAD if counts == "yes" else decided.state)


def test_every_error_an_integration_may_raise_is_in_the_table() -> None:
    told = {_words(row[0])[0] for row in documents.rows(PAGE, "the job raised")}
    raised = {
        name
        for name in integrations.__all__
        if isinstance(kind := getattr(integrations, name), type) and issubclass(kind, IntegrationError)
    }
    assert raised - {"IntegrationError"} == told - OTHERS.keys()


def test_every_proof_that_is_named_is_a_test() -> None:
    tests = {
        name
        for module in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", module.read_text(), re.MULTILINE)
    }
    breaks = list(documents.rows(PAGE, "what breaks"))
    assert len(breaks) > 10
    for what, _, proof in breaks:
        assert _words(proof), f"nothing proves: {what}"
        assert set(_words(proof)) <= tests, what
