"""Who goes next: the judgement alone, and then with real rows and real workers."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from jobs import Priority
from tests.workers import rows
from tests.workers.conftest import Working
from tests.workers.trial_jobs import effect, in_turn, serial, shared
from workers import admission, gates, relay
from workers.admission import Admission, Candidate, Count, Limits, choose
from workers.delivery import RedisDelivery
from workers.relay import Relay

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def candidate(run_id: int, key: str = "a", *, job: str = "j", priority: int = 2, queue: str = "q") -> Candidate:
    return Candidate(run_id, job, queue, key, priority, NOW + timedelta(seconds=run_id))


def ids(chosen: list[Candidate]) -> list[int]:
    return [one.run_id for one in chosen]


def test_keys_take_turns_however_long_the_backlog_of_one_is() -> None:
    backlog = [candidate(number, "large") for number in range(100)] + [candidate(100, "small")]
    assert 100 in ids(choose(backlog, Count(), Limits(), {"q": 2}))


def test_the_key_with_the_fewest_runs_under_way_goes_first() -> None:
    count = Count(Counter({("j", "a"): 5, ("j", "b"): 1}))
    assert ids(choose([candidate(1, "a"), candidate(2, "b"), candidate(3, "c")], count, Limits(), {"q": 3})) == [
        3,
        2,
        1,
    ]


def test_a_higher_priority_goes_before_everybody_elses_turn() -> None:
    urgent = [candidate(9, "a", priority=0), candidate(8, "a", priority=0)]
    assert ids(choose([candidate(1, "b"), *urgent], Count(), Limits(), {"q": 2})) == [8, 9]


def test_what_has_begun_holds_back_the_runs_behind_it_and_goes_itself() -> None:
    ordered = Limits(ordered=frozenset({"j"}))
    waiting = [candidate(1), candidate(2)]
    assert ids(choose(waiting, Count(begun={("j", "a"): 2}), ordered, {"q": 9})) == [2]
    assert ids(choose([candidate(1)], Count(begun={("j", "a"): 2}), ordered, {"q": 9})) == []


CANDIDATES = st.lists(
    st.tuples(st.sampled_from("jk"), st.sampled_from("abc"), st.integers(0, 3), st.sampled_from("pq")), max_size=30
)
SOME = st.integers(1, 3)


CASES = st.fixed_dictionaries(
    {
        "candidates": CANDIDATES,
        "under_way": st.dictionaries(st.tuples(st.sampled_from("jk"), st.sampled_from("abc")), st.integers(0, 3)),
        "per_job": st.dictionaries(st.sampled_from("jk"), SOME),
        "per_key": st.dictionaries(st.sampled_from("jk"), SOME),
        "lanes": st.dictionaries(st.tuples(st.sampled_from(["", "j"]), st.sampled_from("ab")), SOME),
        "rooms": st.dictionaries(st.sampled_from("pq"), st.integers(0, 5)),
        "ordered": st.sets(st.sampled_from("jk")),
    }
)


@given(CASES)
def test_no_limit_is_passed_and_nothing_that_may_go_is_left(case: dict[str, Any]) -> None:
    candidates = [
        candidate(number, key, job=job, priority=priority, queue=queue)
        for number, (job, key, priority, queue) in enumerate(case["candidates"])
    ]
    under_way, rooms, ordered = case["under_way"], case["rooms"], case["ordered"]
    per_job, per_key, lanes = case["per_job"], case["per_key"], case["lanes"]
    limits = Limits(per_job, per_key, frozenset(ordered), lanes)
    count = Count(Counter(under_way))
    chosen = choose(candidates, count, limits, rooms)

    assert count.lanes == Counter(under_way) + Counter(one.lane for one in chosen)
    for queue, many in Counter(one.queue for one in chosen).items():
        assert many <= rooms[queue]
    for one in chosen:
        job, key = one.lane
        assert count.jobs[job] <= per_job.get(job, 99)
        assert count.lanes[one.lane] <= min(per_key.get(job, 99), lanes.get(one.lane, 99))
        assert count.keys[key] <= lanes.get(("", key), 99)
        assert job not in ordered or count.lanes[one.lane] == 1
    left = [one for one in candidates if one not in chosen]
    full = Counter(rooms) - Counter(one.queue for one in chosen)
    assert not [one for one in left if full[one.queue] > 0 and admission._may_go(one, count, limits)]


def put(engine: Engine, job: str, key: str, many: int = 1, due: str = "now()") -> list[int]:
    """Write runs of a job of the trial queue, due since they were written."""
    statement = f"""
        INSERT INTO runs (job, queue, key, args, max_attempts, due_at)
        SELECT :job, 'trial', :key, '{{}}', 3, {due} + n * interval '1 microsecond' FROM generate_series(1, :many) AS n
        RETURNING id
    """
    with engine.begin() as connection:
        return list(connection.execute(text(statement), {"job": job, "key": key, "many": many}).scalars())


def queued(engine: Engine, key: str) -> int:
    return int(rows.one(engine, "SELECT count(*) FROM runs WHERE state = 'queued' AND key = :key", key=key))


def test_a_limit_counts_what_is_queued_and_what_is_running(engine: Engine, delivery: RedisDelivery) -> None:
    put(engine, shared.name, "a", 5)
    put(engine, shared.name, "b", 5)
    assert Relay(engine, delivery).push() == 3  # the job's limit; of one key two at most
    assert sorted([queued(engine, "a"), queued(engine, "b")]) == [1, 2]
    assert Relay(engine, delivery).push() == 0
    rows.change(engine, "UPDATE runs SET state = 'succeeded' WHERE state = 'queued' AND key = 'a'")
    assert Relay(engine, delivery).push() >= 1


def test_a_key_whose_backlog_fills_the_view_hides_no_other(
    engine: Engine, delivery: RedisDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LOOK", 10)
    put(engine, in_turn.name, "large", 500, due="now() - interval '1 hour'")
    put(engine, in_turn.name, "small", 3)
    Relay(engine, delivery).push()
    assert queued(engine, "small") == 3


def test_the_look_along_the_keys_comes_round_to_all_of_them(
    engine: Engine, delivery: RedisDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LOOK", 2)
    monkeypatch.setattr(admission, "KEYS", 3)
    for number in range(8):
        put(engine, shared.name, f"key {number}", 2, due="now() - interval '1 hour'")
    relaying = Relay(engine, delivery)
    seen: set[str] = set()
    for _ in range(8):
        relaying.push()
        with engine.begin() as connection:
            found = "UPDATE runs SET state = 'succeeded' WHERE state = 'queued' RETURNING key"
            seen |= set(connection.execute(text(found)).scalars())
    assert len(seen) == 8


def test_a_run_that_shares_limits_is_claimed_only_once_it_was_counted(engine: Engine, delivery: RedisDelivery) -> None:
    (run_id,) = put(engine, shared.name, "a")
    with engine.begin() as connection:
        process = rows.enter(connection)
    assert rows.claim(engine, process, run_id, jobs=[shared.name]) == []
    Relay(engine, delivery).push()
    assert [claim.key for claim in rows.claim(engine, process, run_id, jobs=[shared.name])] == ["a"]


def test_of_two_relays_one_decides_at_a_time(engine: Engine) -> None:
    put(engine, shared.name, "a", 5)
    with engine.begin() as one, engine.begin() as other:
        found = gates.read(one)
        assert len(Admission().take(one, found, {"trial": 100})) == 2
        assert Admission().take(other, found, {"trial": 100}) == []
    with engine.begin() as after:
        assert Admission().take(after, gates.read(after), {"trial": 100}) == []


def test_a_limited_queue_lets_both_kinds_of_runs_through(engine: Engine, delivery: RedisDelivery) -> None:
    rows.change(engine, "UPDATE queues SET concurrency = 2 WHERE name = 'trial'")
    put(engine, in_turn.name, "a", 10)
    with engine.begin() as connection:
        for number in range(10):
            effect.enqueue(connection, key=str(number))
    kinds = set()
    relaying = Relay(engine, delivery)
    for _ in range(4):
        assert relaying.push() == 2
        with engine.begin() as connection:
            ended = "UPDATE runs SET state = 'succeeded' WHERE state = 'queued' RETURNING job"
            kinds |= set(connection.execute(text(ended)).scalars())
    assert kinds == {in_turn.name, effect.name}


def most_at_once(engine: Engine, condition: str) -> int:
    """Return how many attempts overlapped at most, by their rows."""
    statement = f"""
        WITH moves AS (
            SELECT started_at AS at, 1 AS step FROM attempts JOIN runs r ON r.id = run_id WHERE {condition}
            UNION ALL
            SELECT a.finished_at, -1 FROM attempts a JOIN runs r ON r.id = run_id WHERE {condition}
        )
        SELECT max(many) FROM (SELECT sum(step) OVER (ORDER BY at, step) AS many FROM moves) AS counted
    """
    return int(
        rows.one(engine, statement.replace("started_at", "a.started_at").replace("attempts JOIN", "attempts a JOIN"))
    )


@pytest.mark.usefixtures("relaying")
def test_workers_never_execute_more_of_a_job_or_a_key_than_its_limits(
    engine: Engine, sessions: sessionmaker[Session], working: Working
) -> None:
    with sessions.begin() as session:
        shared.enqueue_many(session, [{"tenant": tenant, "seconds": 0.02} for tenant in "abcab" * 8])
    with working(threads=6), working(threads=6):
        rows.until(lambda: rows.unfinished(engine) == 0, seconds=60)
    assert most_at_once(engine, "true") == 3
    assert max(most_at_once(engine, f"r.key = '{tenant}'") for tenant in "abc") == 2


@pytest.mark.usefixtures("relaying")
def test_runs_of_an_ordered_key_end_in_the_order_of_their_enqueue_also_when_some_fail(
    engine: Engine, sessions: sessionmaker[Session], working: Working
) -> None:
    with sessions.begin() as session:
        for number in range(12):
            serial.enqueue(session, sku="ab"[number % 2], number=number, failures=[0, 1, 2][number % 3])
    with working(threads=6), working(threads=6):
        rows.until(lambda: rows.unfinished(engine) == 0, seconds=60)
    with engine.connect() as connection:
        left = list(connection.execute(text("SELECT key FROM effects ORDER BY id")).scalars())
    # Every third fails as often as it may and is dead: it does not hold back those behind it.
    survivors = [number for number in range(12) if number % 3 != 2]
    for sku, parity in (("a", 0), ("b", 1)):
        assert [key for key in left if key[0] == sku] == [f"{sku} {n}" for n in survivors if n % 2 == parity]
    assert rows.one(engine, "SELECT count(*) FROM runs WHERE state = 'dead'") == 4


def test_due_runs_are_pushed_by_priority(engine: Engine, delivery: RedisDelivery) -> None:
    with engine.begin() as connection:
        made = {
            priority: effect.options(priority=priority).enqueue(connection, key="a")
            for priority in (Priority.BULK, Priority.NORMAL, Priority.URGENT, Priority.HIGH)
        }
    Relay(engine, delivery).push()
    pushed = [int(found) for found in delivery.fetch("trial", 10)[0]]
    assert pushed == [made[priority] for priority in sorted(Priority)]


@pytest.mark.usefixtures("relaying")
def test_the_relay_is_woken_when_a_key_has_room_again(
    engine: Engine, sessions: sessionmaker[Session], working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IDLE", "LONGEST_IDLE"):
        monkeypatch.setattr(relay, name, 4.5)  # whoever is not woken sleeps longer than this test may take
    with sessions.begin() as session:
        for number in range(6):
            serial.enqueue(session, sku="a", number=number)
    with working(threads=2):
        rows.until(lambda: rows.unfinished(engine) == 0, seconds=20)
