"""What a running job may use, and how it speaks."""

from collections.abc import Callable

import pytest
from sqlalchemy import text

from integrations.stripe import Stripe, StripeSettings
from jobs import Cancel, Context, Interrupted
from jobs._context import LONGEST_LINE, MOST_LINES
from tests.conftest import Notes

Make = Callable[..., Context]


def test_an_integration_is_asked_for_by_its_class(make_context: Make) -> None:
    stripe = Stripe(StripeSettings(api_key="sk_test_1"))
    assert make_context(stripe).use(Stripe) is stripe
    stripe.close()


def test_an_integration_of_another_class_is_never_handed_out(make_context: Make) -> None:
    stripe = Stripe(StripeSettings(api_key="sk_test_1"))
    context = make_context(stripe)
    context.integration = lambda kind: kind.__new__(kind.__mro__[1])
    with pytest.raises(TypeError, match="asked for Stripe, got Integration"):
        context.use(Stripe)
    stripe.close()


def test_a_transaction_commits_when_it_ends_well_and_rolls_back_when_it_does_not(make_context: Make) -> None:
    context = make_context()
    with context.transaction() as session:
        session.execute(text("INSERT INTO queues (name) VALUES ('kept')"))
    with pytest.raises(RuntimeError, match="broken"), context.transaction() as session:  # noqa: PT012 - one idea
        session.execute(text("INSERT INTO queues (name) VALUES ('lost')"))
        raise RuntimeError("broken")
    with context.transaction() as session:
        assert session.execute(text("SELECT array_agg(name) FROM queues")).scalar_one() == ["kept"]


def test_lines_are_kept_up_to_a_number_and_a_length(make_context: Make, notes: Notes) -> None:
    context = make_context()
    for _ in range(MOST_LINES + 50):
        context.log("x" * (LONGEST_LINE + 1))
    assert len(notes.lines) == MOST_LINES
    assert {len(line) for line in notes.lines[:-1]} == {LONGEST_LINE}
    assert "the log is full" in notes.lines[-1]


def test_progress_says_what_is_done_of_how_much(make_context: Make, notes: Notes) -> None:
    make_context().progress(12, 50, "page 2")
    assert notes.steps == [{"done": 12, "total": 50, "note": "page 2"}]


def test_a_check_passes_until_somebody_asks_to_stop(make_context: Make) -> None:
    context = make_context()
    context.check()
    context.stop.interrupted = True
    with pytest.raises(Interrupted):
        context.check()
    context.stop.cancelled = True
    with pytest.raises(Cancel, match="by an operator"):
        context.check()
