"""The group commit: what shares a batch, what one bad row does to the others, and when too much waits."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

import jobs
from jobs._lifetime import Lifetime
from models import Verdict
from web.inbox import Arrival, Inbox, InboxUnavailable, Kept

jobs.load()
HANDLER = jobs.find("warehouse.apply_event")


def arrival(external_id: str, kind: str = "inventory_level.updated", body: bytes = b"{}") -> Arrival:
    return Arrival("warehouse", external_id, kind, Verdict.ACCEPTED, "{}", body, HANDLER)


@asynccontextmanager
async def running(inbox: Inbox) -> AsyncIterator[None]:
    task = asyncio.create_task(inbox.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def keep_all(inbox: Inbox, arrivals: Sequence[Arrival]) -> list[Kept | BaseException]:
    async with running(inbox):
        return await asyncio.gather(*map(inbox.keep, arrivals), return_exceptions=True)


def test_requests_that_arrive_together_share_one_commit(database_url: str, engine: Engine) -> None:
    asyncio.run(keep_all(Inbox(database_url), [arrival(f"msg_{n}") for n in range(50)]))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*), count(DISTINCT xmin::text) FROM runs")).one() == (50, 1)


def test_a_run_that_an_event_causes_has_the_lifetime_of_its_job(database_url: str, engine: Engine) -> None:
    brief = replace(HANDLER, lifetime=Lifetime(expires=60, retry_for=3600))
    asyncio.run(keep_all(Inbox(database_url), [arrival("msg_1"), replace(arrival("msg_2"), handler=brief)]))
    seconds = """SELECT extract(epoch FROM expires_at - due_at)::int, extract(epoch FROM deadline_at - due_at)::int
        FROM runs"""
    with engine.connect() as connection:
        assert set(map(tuple, connection.execute(text(seconds)))) == {(None, None), (60, 3600)}


def test_one_that_cannot_be_kept_does_not_take_the_others_with_it(database_url: str, engine: Engine) -> None:
    given_ = [arrival("msg_1"), arrival("msg_2", kind="a\x00b"), arrival("msg_3")]
    first, bad, third = asyncio.run(keep_all(Inbox(database_url), given_))
    assert isinstance(first, Kept)
    assert isinstance(bad, InboxUnavailable)
    assert isinstance(third, Kept)
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT external_id FROM events ORDER BY id")).scalars().all()
    assert kept == ["msg_1", "msg_3"]


def test_what_does_not_fit_any_more_is_refused_at_once(database_url: str, engine: Engine) -> None:
    del engine
    found = asyncio.run(keep_all(Inbox(database_url, capacity=3), [arrival(f"msg_{n}") for n in range(5)]))
    assert [isinstance(answer, Kept) for answer in found] == [True, True, True, False, False]


def test_a_database_that_was_never_there_refuses_and_the_task_lives_on() -> None:
    async def try_twice() -> None:
        inbox = Inbox("postgresql://nobody@127.0.0.1:9/none")
        async with running(inbox):
            for _ in range(2):
                with pytest.raises(InboxUnavailable):
                    await inbox.keep(arrival("msg_1"))

    asyncio.run(try_twice())


def about(external_id: str, sku: str) -> Arrival:
    return replace(arrival(external_id), about=sku)


def cause(database_url: str, *arrivals: Arrival) -> None:
    asyncio.run(keep_all(Inbox(database_url), arrivals))


ANSWERED = """
    SELECT r.id, array_agg(e.external_id ORDER BY e.id) FROM runs r JOIN events e ON e.id = r.event_id
        OR e.joined_run = r.id GROUP BY 1 ORDER BY 1
"""
TAKE = "UPDATE runs SET unique_key = NULL WHERE unique_key IS NOT NULL"


def test_forty_updates_of_one_sku_cause_one_run_that_answers_all_of_them(database_url: str, engine: Engine) -> None:
    names = [f"msg_{number}" for number in range(40)]
    cause(database_url, *(about(name, "sku_1") for name in names[:30]), about("other", "sku_2"))
    cause(database_url, *(about(name, "sku_1") for name in names[30:]))
    with engine.connect() as connection:
        assert sorted(sorted(ids) for _, ids in connection.execute(text(ANSWERED))) == [sorted(names), ["other"]]
        assert connection.execute(text("SELECT count(*) FROM events WHERE run_id IS NULL")).scalar_one() == 0


def test_ordered_runs_are_written_in_the_order_in_which_their_events_arrived(database_url: str, engine: Engine) -> None:
    ordered = replace(HANDLER, unique=None, ordered=True)
    names = [f"msg_{number * 7 % 20}" for number in range(20)]
    cause(database_url, *(replace(about(name, "sku_1"), handler=ordered) for name in names))
    told = "SELECT external_id, key FROM runs JOIN events ON events.id = event_id ORDER BY runs.id"
    with engine.connect() as connection:
        assert connection.execute(text(told)).all() == [(name, "sku_1") for name in names]


def test_what_several_processes_keep_at_once_of_one_entity_is_answered_by_one_run(
    database_url: str, engine: Engine
) -> None:
    async def send() -> None:
        inboxes = [Inbox(database_url) for _ in range(3)]
        async with running(inboxes[0]), running(inboxes[1]), running(inboxes[2]):
            for number in range(10):
                given_ = [about(f"msg_{number}_{sku}_{n}", sku) for n, _ in enumerate(inboxes) for sku in "cab"]
                await asyncio.gather(*(inboxes[at % 3].keep(one) for at, one in enumerate(given_)))

    asyncio.run(send())
    with engine.connect() as connection:
        assert sorted(len(ids) for _, ids in connection.execute(text(ANSWERED))) == [30, 30, 30]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(st.lists(st.sampled_from(["a", "b", None]), max_size=6), min_size=1, max_size=4))
def test_whenever_workers_take_runs_each_event_is_answered_by_one_that_was_taken_after_it_came(
    database_url: str, engine: Engine, rounds: list[list[str | None]]
) -> None:
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE events, runs CASCADE"))
    wanted: list[set[str]] = []
    for number, skus in enumerate(rounds):
        named = [(f"msg_{number}_{at}", sku) for at, sku in enumerate(skus)]
        cause(database_url, *(replace(arrival(name), about=sku) for name, sku in named))
        wanted += [{name for name, of in named if of == sku} for sku in "ab"]
        wanted += [{name} for name, of in named if of is None]
        with engine.begin() as connection:
            connection.execute(text(TAKE))
    with engine.connect() as connection:
        found = [set(ids) for _, ids in connection.execute(text(ANSWERED))]
    assert sorted(map(sorted, found)) == sorted(sorted(names) for names in wanted if names)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8), min_size=1, max_size=4))
def test_however_repeats_are_spread_over_batches_each_event_is_kept_once_and_each_repeat_counted(
    database_url: str, engine: Engine, batches: list[list[str]]
) -> None:
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE events, runs CASCADE"))

    async def send() -> list[Kept | BaseException]:
        inbox = Inbox(database_url)
        async with running(inbox):
            return [kept for batch in batches for kept in await _together(inbox, batch)]

    answers = [answer for answer in asyncio.run(send()) if isinstance(answer, Kept)]
    sent = [name for batch in batches for name in batch]
    assert len(answers) == len(sent)
    assert [answer.fresh for answer in answers] == [name not in sent[:at] for at, name in enumerate(sent)]
    with psycopg.connect(database_url) as connection_:
        found = connection_.execute(
            "SELECT external_id, duplicates, (SELECT count(*) FROM runs WHERE event_id = events.id) FROM events"
        ).fetchall()
    assert sorted(found) == [(name, sent.count(name) - 1, 1) for name in sorted(set(sent))]


async def _together(inbox: Inbox, names: Sequence[str]) -> list[Kept | BaseException]:
    return await asyncio.gather(*(inbox.keep(arrival(name)) for name in names), return_exceptions=True)
