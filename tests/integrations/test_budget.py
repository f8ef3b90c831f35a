"""Of an upstream no more is used than it allows: by all processes together, also without Redis, and as it says."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from integrations import Hindrance, OutOfBudget, Rate, SharedDoor, Throttled
from integrations._breaker import Breaker
from integrations._budget import SOON, LocalBudget
from integrations._circuit import LEASE, Verdict
from integrations._door import Answer, Ask, LocalDoor
from integrations._http import HttpUpstream
from integrations._rate import PART, POLITE, PacedSettings
from integrations._retry_after import LONGEST
from integrations._teaching import NOTHING, Lesson, Teaching
from sandbox.valkey import Valkey
from tests.integrations.scripted import Scripted, reply
from tests.integrations.test_breaker import FakeClock, by_clock_of

BUDGET, CALLS = "headrace:budget:warehouse", "headrace:calls:warehouse"
FAST = Rate(calls=1_000, period=1.0, burst=1_000, concurrency=100)
#: Times of it are exact in a clock of whole milliseconds and as a fraction.
EXACT = Rate(calls=8, period=1.0, burst=4, concurrency=3)


@contextmanager
def calling(
    url: str, store: redis.Redis | None, rate: Rate = FAST, teaching: Teaching | None = None
) -> Iterator[HttpUpstream]:
    """Return a client whose budget is shared, or its own without a store."""
    breaker = Breaker("warehouse", rate, teaching)
    if store is not None:
        breaker.share(SharedDoor(store, "warehouse", rate), lambda *_: None)
    client = HttpUpstream("warehouse", url, SecretStr("hunter2"), breaker=breaker)
    try:
        yield client
    finally:
        client.close()


ASKED = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 0.125, 0.25, 1.0, 5.0]), st.sampled_from([1, 1, 2, 4, 7])), max_size=60
)


@given(asked=ASKED)
def test_no_more_is_ever_spent_than_the_burst_and_what_came_back_and_the_wait_is_exact(
    asked: list[tuple[float, int]],
) -> None:
    clock = FakeClock()
    budget = LocalBudget(replace(EXACT, concurrency=1_000), clock)
    spent: list[tuple[float, int]] = []
    for pause, cost in asked:
        clock.now += pause
        refused = budget.admit(str(len(spent)), cost, patience=LONGEST)
        if refused is not None:
            clock.now += refused.ready - EXACT.interval / 2
            assert budget.admit("too early", cost, patience=LONGEST) is not None
            clock.now += EXACT.interval / 2
            assert budget.admit(str(len(spent)), cost, patience=LONGEST) is None
        spent.append((clock.now, cost))
        for since, _ in spent:
            within = [units for moment, units in spent if moment >= since]
            # Only who costs more than the burst goes into debt, and then nobody goes before it is paid.
            allowed = EXACT.burst + (clock.now - since) / EXACT.interval
            assert sum(within) <= allowed + max(0, max(within) - EXACT.burst)


LESSONS = [
    NOTHING,
    NOTHING,
    Lesson(remaining=1),
    Lesson(remaining=0, block=2.0),
    Lesson(block=0.5),
    Lesson(block=LONGEST),
    Lesson(interval=0.5),
    Lesson(interval=0.125),
    Lesson(cost=3),
    Lesson(cost=0),
    Lesson(cost=1e18),
]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.sampled_from([0.125, 0.125, 0.25, 0.5, 2.0, 30.0, 3600.0])),
        st.tuples(st.just("ask"), st.tuples(st.sampled_from([1, 1, 1, 3, 6]), st.sampled_from([0.0, 1.0]))),
        st.tuples(st.just("ask"), st.tuples(st.just(1), st.just(0.0))),
        st.tuples(st.just("settle"), st.tuples(st.sampled_from(list(Verdict)), st.sampled_from(LESSONS))),
    ),
    min_size=5,
    max_size=40,
)


@given(steps=STEPS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_calls_interleave_both_doors_say_the_same_and_after_a_block_one_call_asks(
    store: redis.Redis, steps: list[tuple[str, Any]]
) -> None:
    store.flushdb()
    clock = FakeClock()
    ours, theirs = LocalDoor(EXACT, clock), by_clock_of(store, EXACT)
    under_way: list[Ask] = []
    blocked_until, asking = 0.0, 0.0
    for number, (what, how) in enumerate(steps):
        store.set("now", round(clock.now * 1000))
        if what == "pass":
            clock.now += how
        elif what == "ask":
            ask = Ask(str(number), *how)
            found, same = ours.admit(ask), theirs.admit(ask)
            assert told(found) == pytest.approx(told(same), abs=0.01)
            if found.refusal is None:
                under_way.append(ask)
                assert clock.now >= blocked_until
                assert clock.now >= asking, "two ask at once whether the block is over"
                asking = clock.now + LEASE if blocked_until else 0.0
        elif under_way:
            ask, (verdict, lesson) = under_way.pop(0), how
            change, same_change = ours.settle(ask, verdict, lesson), theirs.settle(ask, verdict, lesson)
            assert change.block == same_change.block
            if change.block is not None:
                blocked_until, asking = clock.now + change.block, 0.0
            elif ours.budget.level().blocked is None:
                blocked_until = asking = 0.0
            elif asking and ours.budget._probe is None:
                asking = 0.0
        store.set("now", round(clock.now * 1000))
        level, same_level = ours.budget.level(), theirs.level()
        assert replace(level, tokens=0.0) == replace(same_level, tokens=0.0)
        assert level.tokens == pytest.approx(same_level.tokens, abs=0.02)


def told(answer: Answer) -> list[float]:
    """Return a refusal as numbers, which both clocks round differently."""
    found = answer.refusal
    return [list(Hindrance).index(found.hindrance), found.ready, found.turn] if found else []


def test_eight_callers_together_never_exceed_the_rate_and_the_burst(store: redis.Redis) -> None:
    rate = Rate(calls=50, period=1.0, burst=5, concurrency=100)
    let_in: list[float] = []
    together = threading.Barrier(8)
    known = store.connection_pool.connection_kwargs

    def spend() -> None:
        with redis.Redis(host=known["host"], port=known["port"], db=known["db"]) as mine:
            door = SharedDoor(mine, "warehouse", rate)
            together.wait()
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                ask = Ask(f"{threading.get_ident()}-{time.monotonic_ns()}", 1.0, 1.0)
                before = time.monotonic()
                refusal = door.admit(ask).refusal
                if refusal is None:
                    let_in.append(before)
                else:
                    time.sleep(refusal.ready)

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lasted = time.monotonic() - min(let_in)
    assert rate.burst < len(let_in) <= rate.burst + rate.calls * lasted + 1


def test_who_waits_for_longer_is_told_a_turn_of_its_own(store: redis.Redis) -> None:
    slow = Rate(calls=1, period=600.0, burst=1, concurrency=100)
    door = SharedDoor(store, "warehouse", slow)
    assert door.admit(Ask("first")).refusal is None
    turns = [refusal.turn for n in range(4) if (refusal := door.admit(Ask(str(n))).refusal) is not None]
    assert turns == pytest.approx([600, 1200, 1800, 2400], abs=60)
    patient = door.admit(Ask("patient", patience=700.0)).refusal
    assert patient is not None
    assert patient.turn == patient.ready <= 600


def test_a_short_wait_is_made_on_the_spot_and_a_long_one_gives_the_work_back(
    store: redis.Redis, server: Scripted
) -> None:
    server.will(reply(200, {}))
    quick, slow = Rate(calls=4, period=1.0, burst=1, concurrency=9), Rate(calls=1, period=600.0, burst=1, concurrency=9)
    with calling(server.url, store, quick) as client:
        start = time.monotonic()
        client.get("/")
        client.get("/")
        assert time.monotonic() - start >= 0.2
    store.flushdb()
    with calling(server.url, store, slow) as client:
        client.get("/")
        with pytest.raises(OutOfBudget, match=r"budget of warehouse refills in \d+ s: .*its turn comes at") as caught:
            client.get("/")
        assert 1 < caught.value.retry_after <= 600
    assert len(server.seen) == 3


def test_a_place_is_taken_for_one_try_given_back_and_not_lost_with_whoever_dies(store: redis.Redis) -> None:
    one = replace(FAST, concurrency=1)
    door, other = SharedDoor(store, "warehouse", one), SharedDoor(store, "warehouse", one)
    assert door.admit(Ask("a")).refusal is None
    refusal = other.admit(Ask("b")).refusal
    assert refusal is not None
    assert (refusal.hindrance, refusal.ready) == (Hindrance.PLACES, SOON)
    door.settle(Ask("a"), Verdict.FAILED)
    assert other.admit(Ask("dies")).refusal is None
    assert door.admit(Ask("c")).refusal is not None
    left = float(store.zscore(CALLS, "dies") or 0) / 1000 - store.time()[0]
    assert 0 < left <= LEASE + 1
    store.zadd(CALLS, {"dies": 1})
    assert door.admit(Ask("c")).refusal is None


def test_what_one_is_asked_to_wait_all_wait_and_then_one_asks_and_then_they_go_on_one_by_one(
    store: redis.Redis, server: Scripted
) -> None:
    server.will(reply(429, headers={"Retry-After": "40"}), reply(200, {}))
    slow = Rate(calls=100, period=3600.0, burst=100, concurrency=9)
    with calling(server.url, store, slow) as client, calling(server.url, store, slow) as other:
        with pytest.raises(Throttled) as caught:
            client.get("/v1/x")
        assert (type(caught.value), caught.value.retry_after) == (Throttled, 40.0)
        for each in (client, other):
            with pytest.raises(OutOfBudget, match=r"refills in \d+ s"):
                each.get("/v1/x")
        assert len(server.seen) == 1
    store.hset(BUDGET, "until", "1")
    door = SharedDoor(store, "warehouse", slow)
    assert door.admit(Ask("probe")).refusal is None
    waiting = door.admit(Ask("other", patience=1.0)).refusal
    assert waiting is not None
    assert (waiting.hindrance, waiting.ready) == (Hindrance.BLOCKED, SOON)
    assert door.settle(Ask("probe"), Verdict.ANSWERED).block is None
    # Not the whole burst at once: units come back one by one.
    assert door.level().blocked is None
    assert door.level().tokens < slow.burst / 2


def test_an_upstream_that_says_that_nothing_is_left_is_not_asked_before_it_refills(
    store: redis.Redis, server: Scripted
) -> None:
    server.will(reply(200, {}, {"RateLimit-Remaining": "0", "RateLimit-Reset": "30", "RateLimit-Limit": "120"}))
    with calling(server.url, store, teaching=Teaching(window=60.0)) as client:
        assert client.get("/").status == 200
        with pytest.raises(OutOfBudget, match=r"refills in \d+ s"):
            client.get("/")
    level = SharedDoor(store, "warehouse", FAST).level()
    assert level.interval == 0.5
    assert level.blocked is not None
    assert 0 < level.blocked <= 30


def test_a_cost_in_the_body_is_paid_afterwards(store: redis.Redis, server: Scripted) -> None:
    rate = Rate(calls=50, period=3600.0, burst=100, concurrency=9)
    server.will(reply(200, {"extensions": {"cost": {"actualQueryCost": 42}}}))
    teaching = Teaching(cost=lambda _, body: orjson.loads(body)["extensions"]["cost"]["actualQueryCost"])
    with calling(server.url, store, rate, teaching) as client:
        client.send("POST", f"{server.url}/graphql", content=b"{}", cost=10.0)
    assert SharedDoor(store, "warehouse", rate).level().tokens == pytest.approx(58, abs=0.5)


def test_without_redis_each_process_spends_a_part_and_keeps_to_a_block(tmp_path: Path, server: Scripted) -> None:
    hourly = Rate(calls=16, period=3600.0, burst=16, concurrency=16)
    valkey = Valkey(tmp_path)
    valkey.start()
    try:
        with redis.Redis.from_url(valkey.url, socket_timeout=0.25) as store:
            blocked, free = SharedDoor(store, "stripe", hourly), SharedDoor(store, "warehouse", hourly)
            assert blocked.admit(Ask("a")).refusal is None
            blocked.settle(Ask("a"), Verdict.ANSWERED, Lesson(block=60.0))
            valkey.kill()
            refusal = blocked.admit(Ask("b")).refusal
            assert refusal is not None
            assert refusal.hindrance is Hindrance.BLOCKED
            answers = [free.admit(Ask(str(n))).refusal for n in range(6)]
            assert [answer is None for answer in answers] == [True] * (16 // PART) + [False] * 4
            with pytest.raises(redis.RedisError):
                free.level()
        with calling(server.url, None, replace(hourly, burst=2)) as client:
            client.get("/")
            client.get("/")
            with pytest.raises(OutOfBudget):
                client.get("/")
    finally:
        valkey.close()


NOW = "Mon, 23 Nov 2026 05:00:00 GMT"
EPOCH = 1_795_410_000


@pytest.mark.parametrize(
    ("teaching", "headers", "lesson"),
    [
        (Teaching(), {}, NOTHING),
        (Teaching(), {"ratelimit-remaining": "7", "ratelimit-reset": "9"}, Lesson(remaining=7)),
        (Teaching(), {"ratelimit-remaining": "0", "ratelimit-reset": "9"}, Lesson(remaining=0, block=9)),
        (Teaching(), {"ratelimit-remaining": "0", "ratelimit-reset": str(EPOCH)}, Lesson(remaining=0)),
        (Teaching(), {"ratelimit-remaining": "0", "ratelimit-reset": "86400"}, Lesson(remaining=0, block=LONGEST)),
        (Teaching(), {"ratelimit-remaining": "0", "ratelimit-reset": "soon"}, Lesson(remaining=0)),
        (Teaching(), {"ratelimit-remaining": "-1"}, NOTHING),
        (Teaching(), {"ratelimit-remaining": "nan"}, NOTHING),
        (Teaching(), {"ratelimit-limit": "120"}, NOTHING),
        (Teaching(window=60), {"ratelimit-limit": "120, 120;w=60"}, Lesson(interval=0.5)),
        (Teaching(window=60), {"ratelimit-limit": "0"}, NOTHING),
        (
            Teaching(reset_as="epoch", remaining="x-left", reset="x-reset"),
            {"x-left": "0", "x-reset": str(EPOCH + 90), "date": NOW},
            Lesson(remaining=0, block=90),
        ),
        (
            Teaching(reset_as="epoch", remaining="x-left", reset="x-reset"),
            {"x-left": "0", "x-reset": str(EPOCH - 90), "date": NOW},
            Lesson(remaining=0, block=0),
        ),
        (Teaching(cost=lambda headers, _: float(headers["x-cost"])), {"x-cost": "3"}, Lesson(cost=3)),
        (Teaching(cost=lambda headers, _: float(headers["x-cost"])), {"x-cost": "-3"}, NOTHING),
        (Teaching(cost=lambda headers, _: float(headers["x-cost"])), {"x-cost": "inf"}, NOTHING),
        (Teaching(cost=lambda headers, _: float(headers["x-cost"])), {}, NOTHING),
        (Teaching(cost=lambda _, body: orjson.loads(body)["cost"]), {}, NOTHING),
    ],
)
def test_each_upstream_teaches_in_its_own_words(teaching: Teaching, headers: dict[str, str], lesson: Lesson) -> None:
    assert teaching.learn(headers, b"") == lesson


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-retry-after": "7"}, 7.0),
        ({"x-retry-after": "Mon, 23 Nov 2026 05:01:30 GMT", "date": NOW}, 90.0),
        ({"x-retry-after": "99999999999999"}, LONGEST),
        ({"retry-after": "7"}, None),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "20"}, 20.0),
        # Said with every answer, also with a 503 that has nothing to do with it.
        ({"ratelimit-remaining": "5", "ratelimit-reset": "20"}, None),
    ],
)
def test_the_patience_that_a_refusal_asks_for_has_a_name_of_its_own(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert Teaching(retry_after="x-retry-after").wait(headers) == seconds


@given(st.text(), st.text(), st.text(), st.sampled_from(["delta", "epoch"]))
@settings(max_examples=30)
def test_nothing_that_an_upstream_writes_breaks_us_or_blocks_for_more_than_an_hour(
    limit: str, remaining: str, reset: str, reset_as: Any
) -> None:
    headers = {"ratelimit-limit": limit, "ratelimit-remaining": remaining, "ratelimit-reset": reset}
    lesson = Teaching(reset_as=reset_as, window=60.0).learn(headers, b"")
    assert lesson.block is None or 0 <= lesson.block <= LONGEST


def test_a_rate_is_read_from_the_environment_and_reads_as_it_was_written() -> None:
    for text, interval in (("100/s", 0.01), ("600/min", 0.1), ("2/h", 1800.0)):
        agreed = PacedSettings.model_validate({"rate": text, "concurrency": "3"}).agreed(POLITE)
        assert (str(agreed), agreed.interval, agreed.concurrency) == (text, interval, 3)
        assert agreed.burst <= POLITE.burst
    assert PacedSettings().agreed(POLITE) == POLITE
    assert str(POLITE.slower(0.5)) == "120/min"
    for wrong in ("0/s", "100", "-1/s", "1/day", "1e3/s", "99999999/s"):
        with pytest.raises(ValueError, match="write calls and a period, like 100/s"):
            PacedSettings.model_validate({"rate": wrong})
