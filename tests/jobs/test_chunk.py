"""A job of many runs: how it is declared, enqueued and called."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from sqlalchemy import Engine

import jobs
from jobs import BadArguments, Cancel, Context, Interrupted, Member, chunk_job
from jobs import _job as registry
from jobs._context import Stop
from tests.workers import rows


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that are recorded here are forgotten here."""
    jobs.load()
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))


@dataclass(frozen=True)
class Price:
    """What a run is about."""

    sku: str
    cents: int = 0

    def __post_init__(self) -> None:
        if self.cents < 0:
            raise ValueError("a price below nothing")


def publish(context: Context, members: Sequence[Member[Price]]) -> None:
    """Publish prices."""
    del context
    for member in members:
        if member.args.sku == "unknown":
            member.fail(LookupError(member.args.sku))
        elif member.args.cents:
            member.succeed({"cents": member.args.cents})


def test_its_arguments_are_those_of_its_shape_and_judged_at_enqueue(engine: Engine) -> None:
    recorded = chunk_job(Price, most=10, queue="prices", max_attempts=4)(publish)
    assert jobs.find("test_chunk.publish") is recorded
    assert (recorded.queue, recorded.max_attempts) == ("prices", 4)
    assert recorded.chunk is not None
    with engine.begin() as connection:
        run_id = recorded.enqueue(connection, sku="a", cents=3)
        with pytest.raises(BadArguments, match=r"test_chunk\.publish: argument 'sku': is required"):
            recorded.insert(connection, recorded._accepted((), {"cents": 1}))
        with pytest.raises(BadArguments, match="argument 'colour': is not one of this job's arguments"):
            recorded.insert(connection, recorded._accepted((), {"sku": "a", "colour": "red"}))
    assert rows.run_row(engine, run_id).args == {"sku": "a", "cents": 3}


def test_it_can_be_called_like_the_function_of_one_run(make_context: Callable[[], Context]) -> None:
    recorded = chunk_job(Price, most=10)(publish)
    assert recorded(make_context(), sku="a", cents=3) == {"cents": 3}
    assert recorded(make_context(), sku="a") is None
    with pytest.raises(LookupError, match="unknown"):
        recorded(make_context(), sku="unknown")


def test_a_chunk_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="publish: a chunk has at least 2 runs; use @job for one"):
        chunk_job(Price, most=1)(publish)


def test_a_shape_that_refuses_its_arguments_fails_that_run() -> None:
    recorded = chunk_job(Price, most=10)(publish)
    assert recorded.chunk is not None
    member = recorded.chunk.member(recorded, 7, 1, {"sku": "a", "cents": -1}, Stop())
    assert member.settled
    assert str(member.error) == "a price below nothing"


def test_the_last_word_about_a_member_counts() -> None:
    member = Member(7, 1, Price("a"))
    member.fail(LookupError("a"))
    member.succeed({"found": True})
    assert (member.error, member.result, member.settled) == (None, {"found": True}, True)


def test_a_chunk_stops_once_all_of_its_runs_should(make_context: Callable[[], Context]) -> None:
    context = make_context()
    other = Stop()
    context.other_stops = [other]
    context.stop.cancelled = True
    context.check()
    assert Member(7, 1, Price("a"), context.stop).cancelled
    other.cancelled = True
    with pytest.raises(Cancel):
        context.check()
    context.stop.cancelled = False
    context.stop.interrupted = other.interrupted = True
    with pytest.raises(Interrupted):
        context.check()
