"""Which runs are one, and what a second enqueue does: on a real Postgres."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs import BadArguments, Context, Job, Unique, job
from jobs import _job as registry
from tests.workers import rows
from workers import ledger
from workers.ledger import Ending

Made = Callable[..., Job[Any]]


@pytest.fixture
def made() -> Iterator[Made]:
    """Return a function that records a job with these options; it is forgotten after the test."""

    def record(**options: Any) -> Job[Any]:
        @job(queue="trial", **options)
        def refresh(context: Context, *, sku: str, store: str = "all") -> None:
            """Do nothing."""

        return refresh

    before = dict(registry._registry)
    yield record
    registry._registry.clear()
    registry._registry.update(before)


def enqueue(engine: Engine, recorded: Job[Any], **arguments: str) -> int:
    with engine.begin() as connection:
        return recorded.enqueue(connection, **arguments)


def take(engine: Engine, run_id: int, recorded: Job[Any]) -> int:
    """Claim a run as a worker would; return the attempt."""
    with engine.begin() as connection:
        process = rows.enter(connection)
    (claim,) = rows.claim(engine, process, run_id, jobs=[recorded.name])
    return claim.attempt


def end(engine: Engine, run_id: int, attempt: int, state: str = "succeeded") -> None:
    with engine.begin() as connection:
        assert ledger.finish(connection, [Ending(run_id, attempt, state=state, outcome="succeeded")]) == 1


def test_runs_with_the_same_arguments_are_one_while_they_wait(engine: Engine, made: Made) -> None:
    refresh = made(unique=Unique())
    first = enqueue(engine, refresh, sku="a")
    assert enqueue(engine, refresh, sku="a", store="all") == first  # a default is the same when it is given
    assert enqueue(engine, refresh, sku="b") != first
    take(engine, first, refresh)
    assert enqueue(engine, refresh, sku="a") > first


def test_only_the_chosen_arguments_make_the_difference(engine: Engine, made: Made) -> None:
    refresh = made(unique=Unique(by=("sku",)))
    assert enqueue(engine, refresh, sku="a", store="1") == enqueue(engine, refresh, sku="a", store="2")


@pytest.mark.parametrize(("state", "free"), [("waiting", False), ("succeeded", True), ("dead", True)])
def test_until_its_end_a_run_stands_in_the_way_of_another(engine: Engine, made: Made, state: str, free: bool) -> None:
    refresh = made(unique=Unique(during="unfinished"))
    first = enqueue(engine, refresh, sku="a")
    attempt = take(engine, first, refresh)
    assert enqueue(engine, refresh, sku="a") == first
    end(engine, first, attempt, state)
    assert (enqueue(engine, refresh, sku="a") != first) is free


def test_within_its_window_a_run_stands_in_the_way_even_after_its_end(engine: Engine, made: Made) -> None:
    refresh = made(unique=Unique(during="window", window=3600))
    first = enqueue(engine, refresh, sku="a")
    end(engine, first, take(engine, first, refresh))
    assert enqueue(engine, refresh, sku="a") == first
    rows.change(engine, "UPDATE runs SET unique_until = now() - interval '1 second'")
    assert enqueue(engine, refresh, sku="a") > first


def test_the_waiting_run_gets_the_newer_arguments(engine: Engine, made: Made) -> None:
    refresh = made(unique=Unique(by=("sku",), during="unfinished", on_conflict="replace"))
    first = enqueue(engine, refresh, sku="a", store="1")
    assert enqueue(engine, refresh, sku="a", store="2") == first
    assert rows.run_row(engine, first).args == {"sku": "a", "store": "2"}
    take(engine, first, refresh)
    assert enqueue(engine, refresh, sku="a", store="3") == first
    assert rows.run_row(engine, first).args["store"] == "2", "what a worker has taken is beyond changing"


def test_a_burst_becomes_one_run_after_it_calms_down_and_at_the_latest_after_the_longest_wait(
    engine: Engine, made: Made
) -> None:
    refresh = made(unique=Unique(by=("sku",), on_conflict="postpone", wait=5, max_wait=60))
    wait = "SELECT round(extract(epoch FROM due_at - now())) FROM runs"
    first = enqueue(engine, refresh, sku="a", store="1")
    assert rows.one(engine, wait) == 5
    rows.change(engine, "UPDATE runs SET due_at = now() + interval '1 second'")
    assert enqueue(engine, refresh, sku="a", store="2") == first
    assert rows.one(engine, wait) == 5
    assert rows.run_row(engine, first).args["store"] == "2"
    rows.change(engine, "UPDATE runs SET created_at = now() - interval '58 seconds'")
    assert enqueue(engine, refresh, sku="a") == first
    assert rows.one(engine, wait) == 2


def test_many_runs_are_written_with_one_statement_in_order(engine: Engine, made: Made) -> None:
    refresh = made(key="store")
    with engine.begin() as connection:
        ids = refresh.enqueue_many(connection, ({"sku": str(number), "store": "1"} for number in range(10_500)))
    assert ids == sorted(ids)
    assert rows.one(engine, "SELECT count(*) FROM runs WHERE key = '1' AND state = 'waiting'") == 10_500
    assert rows.run_row(engine, ids[10_400]).args == {"sku": "10400", "store": "1"}


def test_of_many_unique_runs_the_repeated_are_left_out(engine: Engine, made: Made) -> None:
    refresh = made(unique=Unique(by=("sku",)))
    with engine.begin() as connection:
        ids = refresh.enqueue_many(connection, [{"sku": "a"}, {"sku": "b"}, {"sku": "a"}])
        assert len(ids) == 2
        assert refresh.enqueue_many(connection, [{"sku": "a"}, {"sku": "c"}]) == [max(ids) + 3]


def test_one_wrong_item_among_many_is_named_and_nothing_is_kept(engine: Engine, made: Made) -> None:
    refresh = made()
    with pytest.raises(BadArguments, match="argument 'sku': is required"), engine.begin() as connection:
        refresh.enqueue_many(connection, [{"sku": "a"}, {}])
    assert rows.one(engine, "SELECT count(*) FROM runs") == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"window": 5}, '`window` belongs to during="window"'),
        ({"during": "window"}, '`window` belongs to during="window"'),
        ({"on_conflict": "postpone"}, "needs `wait`"),
        ({"during": "always"}, "choose `during`"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_written(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Unique(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"key": "shop"}, "has no argument 'shop' that a key could be taken from"),
        ({"unique": Unique(by=("shop",))}, "has no argument 'shop'"),
        ({"per_key": 2}, "limits each key and has none"),
        ({"limit": 0}, "a limit below 1 would hold its runs for ever"),
    ],
)
def test_a_job_that_cannot_share_as_it_says_is_refused(made: Made, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        made(**options)


def test_runs_of_a_limited_job_without_a_key_share_one(engine: Engine, made: Made) -> None:
    limited = made(limit=1)
    assert rows.run_row(engine, enqueue(engine, limited, sku="a")).key == ""
