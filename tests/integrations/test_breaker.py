"""An upstream that failed too often is left alone, by all processes, until one call finds it well again."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from queue import Queue

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from integrations import (
    CircuitOpen,
    Hindrance,
    IntegrationError,
    NotFound,
    OutOfBudget,
    SharedDoor,
    Standing,
    Throttled,
    Unavailable,
)
from integrations import _shared_door as shared
from integrations._breaker import Breaker
from integrations._circuit import FIRST, LEASE, LEAST, LONGEST, SLICES, WINDOW, LocalCircuit, Verdict
from integrations._door import Ask
from integrations._http import HttpUpstream
from integrations._rate import Rate
from sandbox.valkey import Valkey
from tests.integrations.scripted import Scripted, reply, scripted_server

KEY = "headrace:circuit:warehouse"
DOWN = reply(500)
#: So much that the budget is never in the way.
PLENTY = Rate(calls=1_000_000, period=1.0, burst=1_000_000, concurrency=1_000)


class Told(list[tuple[bool, str | None]]):
    """What was told of a circuit: whether it is open, and the error."""

    def hear(self, standing: Standing, error: str | None) -> None:
        self.append((standing.open_for is not None, error))


@contextmanager
def calling(url: str, store: redis.Redis | None, told: Told | None = None) -> Iterator[HttpUpstream]:
    """Return a client whose circuit is shared, or its own without a store."""
    breaker = Breaker("warehouse", PLENTY)
    if store is not None:
        breaker.share(SharedDoor(store, "warehouse", PLENTY), (told if told is not None else Told()).hear)
    client = HttpUpstream("warehouse", url, SecretStr("hunter2"), breaker=breaker)
    try:
        yield client
    finally:
        client.close()


def post(client: HttpUpstream, url: str) -> None:
    """Make one call that is not repeated."""
    client.send("POST", f"{url}/v1/x", content=b"{}")


def outcomes(client: HttpUpstream, url: str, calls: int) -> list[str]:
    """Return the class of what each of so many calls raised."""
    found = []
    for _ in range(calls):
        try:
            post(client, url)
            found.append("answered")
        except IntegrationError as error:
            found.append(type(error).__name__)
    return found


def open_it(store: redis.Redis, server: Scripted) -> None:
    """Let the upstream fail until its circuit is open, then be well; forget what it was asked."""
    server.will(DOWN)
    with calling(server.url, store) as client:
        assert outcomes(client, server.url, LEAST) == ["Unavailable"] * LEAST
    assert store.hexists(KEY, "until")
    server.will(reply(200, {}))
    server.seen.clear()


def due(store: redis.Redis) -> None:
    """Let the time of the next probe come."""
    store.hset(KEY, "until", "1")


def test_it_opens_when_half_of_enough_calls_failed_and_then_nothing_is_sent(
    store: redis.Redis, server: Scripted
) -> None:
    told = Told()
    server.will(*[reply(200, {})] * (LEAST // 2), DOWN)
    with calling(server.url, store, told) as client:
        assert outcomes(client, server.url, LEAST) == ["answered"] * (LEAST // 2) + ["Unavailable"] * (LEAST // 2)
        with pytest.raises(CircuitOpen, match=r"warehouse failed too often.*its circuit is open since") as caught:
            post(client, server.url)
    assert len(server.seen) == LEAST
    assert FIRST - 1 < caught.value.retry_after <= FIRST
    # The first call says that it is closed, for whoever thought otherwise.
    assert [opened for opened, _ in told] == [False, True]
    assert "warehouse answered 500 to POST /v1/x" in (told[-1][1] or "")


def test_a_call_in_the_middle_of_its_tries_is_ended_by_the_open_circuit(store: redis.Redis, server: Scripted) -> None:
    server.will(DOWN)
    with calling(server.url, store) as client:
        assert outcomes(client, server.url, LEAST - 2) == ["Unavailable"] * (LEAST - 2)
        with pytest.raises(CircuitOpen):
            client.get("/")
    assert len(server.seen) == LEAST


@pytest.mark.parametrize(
    ("status", "first", "then"),
    [(404, NotFound, NotFound), (429, Throttled, OutOfBudget)],
    ids=["a refusal", "a request for patience"],
)
def test_an_answer_of_any_kind_is_no_failure(
    store: redis.Redis, server: Scripted, status: int, first: type[IntegrationError], then: type[IntegrationError]
) -> None:
    server.will(reply(status, headers={"Retry-After": "60"}))
    with calling(server.url, store) as client:
        assert outcomes(client, server.url, LEAST + 5) == [first.__name__, *[then.__name__] * (LEAST + 4)]
    assert not store.exists(KEY) or not store.hexists(KEY, "until")


def test_what_was_never_sent_says_nothing_also_not_as_a_probe(store: redis.Redis, server: Scripted) -> None:
    open_it(store, server)
    due(store)
    with calling(server.url, store) as client:
        with pytest.raises(IntegrationError, match="could not be put into words"):
            client.send("POST", server.url, headers={"X-Bad": "two\nlines"}, content=b"")
        assert store.hexists(KEY, "until")
        post(client, server.url)  # the place of the probe is free again at once
    assert not store.hexists(KEY, "until")


def test_it_stays_open_for_longer_with_each_failed_probe_up_to_a_limit(store: redis.Redis, server: Scripted) -> None:
    open_it(store, server)
    server.will(DOWN)
    waits = []
    with calling(server.url, store) as client:
        for _ in range(7):
            due(store)
            with pytest.raises(Unavailable):
                post(client, server.url)
            with pytest.raises(CircuitOpen) as caught:
                post(client, server.url)
            waits.append(round(caught.value.retry_after))
    assert waits == [10, 20, 40, 80, LONGEST, LONGEST, LONGEST]
    assert len(server.seen) == 7


def test_a_probe_that_is_answered_closes_it_for_all_and_tells(store: redis.Redis, server: Scripted) -> None:
    open_it(store, server)
    due(store)
    told = Told()
    with calling(server.url, store, told) as prober, calling(server.url, store) as other:
        post(prober, server.url)
        post(other, server.url)
    assert told == [(False, None)]
    assert not store.hexists(KEY, "until")


def test_whoever_saw_it_open_tells_that_it_is_closed_when_somebody_else_closed_it(
    store: redis.Redis, server: Scripted
) -> None:
    open_it(store, server)
    told = Told()
    with calling(server.url, store, told) as client:
        with pytest.raises(CircuitOpen):
            post(client, server.url)
        store.flushdb()  # a wiped Redis just closes it
        assert outcomes(client, server.url, 3) == ["answered"] * 3
    assert told == [(False, None)]


@contextmanager
def callers(server: Scripted, store: redis.Redis, threads: int) -> Iterator[subprocess.Popen[str]]:
    """Start a process that calls once it is told to."""
    known = store.connection_pool.connection_kwargs
    url = f"redis://{known['host']}:{known['port']}/{known['db']}"
    command = [sys.executable, "-m", "tests.integrations.callers", server.url, url, str(threads)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def listen(process: subprocess.Popen[str], most: int, lines: Queue[str]) -> None:
    """Hand on what a process says of its calls."""
    assert process.stdout is not None
    for _ in range(most):
        lines.put(process.stdout.readline().strip())


class Held:
    """An answer that waits to be let go."""

    def __init__(self) -> None:
        self.asked, self.let_go = threading.Event(), threading.Event()

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.set()
        self.let_go.wait(60)
        reply(200, {})(handler)


def test_of_twenty_callers_in_two_processes_exactly_one_is_the_probe(store: redis.Redis, server: Scripted) -> None:
    open_it(store, server)
    held = Held()
    server.will(held)
    with ExitStack() as stack:
        both = [stack.enter_context(callers(server, store, 10)) for _ in range(2)]
        due(store)
        for process in both:
            go(process)
        assert held.asked.wait(60)
        lines: Queue[str] = Queue()
        readers = [threading.Thread(target=listen, args=(process, 10, lines)) for process in both]
        for reader in readers:
            reader.start()
        # While the one waits for its answer, the nineteen others are refused.
        assert [lines.get(timeout=60) for _ in range(19)] == ["open"] * 19
        held.let_go.set()
        assert lines.get(timeout=60) == "answered"
        for reader in readers:
            reader.join(60)
    assert len(server.seen) == 1
    assert not store.hexists(KEY, "until")


def test_a_prober_that_dies_keeps_it_neither_open_nor_closed_for_ever(store: redis.Redis, server: Scripted) -> None:
    open_it(store, server)
    held = Held()
    server.will(held, reply(200, {}))
    due(store)
    with callers(server, store, 1) as prober, calling(server.url, store) as client:
        go(prober)
        assert held.asked.wait(60)
        prober.kill()
        with pytest.raises(CircuitOpen) as caught:
            post(client, server.url)
        assert 0 < caught.value.retry_after <= FIRST
        left = float(store.hget(KEY, "lease") or 0) - _now(store)
        assert 0 < left <= LEASE * 1000
        store.hset(KEY, "lease", "1")
        post(client, server.url)
    held.let_go.set()
    assert not store.hexists(KEY, "until")


def _now(store: redis.Redis) -> float:
    seconds, micros = store.time()
    return seconds * 1000 + micros / 1000


def test_a_probe_that_comes_back_after_its_lease_decides_nothing(store: redis.Redis) -> None:
    door = SharedDoor(store, "warehouse", PLENTY)
    for number in range(LEAST):
        door.settle(Ask(str(number)), Verdict.FAILED)
    due(store)
    assert door.admit(Ask("slow")).refusal is None
    store.hset(KEY, "lease", "1")
    assert door.admit(Ask("next")).refusal is None
    assert door.settle(Ask("slow"), Verdict.ANSWERED).standing is None
    assert door.settle(Ask("stranger"), Verdict.ANSWERED).standing is None
    assert door.admit(Ask("other")).refusal is not None
    closed = door.settle(Ask("next"), Verdict.ANSWERED).standing
    assert closed is not None
    assert closed.open_for is None


def test_without_redis_each_process_goes_on_with_a_circuit_of_its_own(
    server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    valkey = Valkey(tmp_path)
    valkey.start()
    try:
        with redis.Redis.from_url(valkey.url, socket_timeout=0.25) as store:
            open_it(store, server)
            with calling(server.url, store) as knowing, calling(server.url, store) as other:
                with pytest.raises(CircuitOpen):
                    post(knowing, server.url)
                valkey.kill()
                # Who saw it open leaves the upstream alone; who did not finds out with few calls.
                assert outcomes(knowing, server.url, 3) == ["CircuitOpen"] * 3
                assert server.seen == []
                server.will(DOWN)
                assert outcomes(other, server.url, LEAST + 3) == ["Unavailable"] * LEAST + ["CircuitOpen"] * 3
                assert len(server.seen) == LEAST
                server.will(reply(200, {}))
                valkey.start()
                monkeypatch.setattr(SharedDoor, "_away", lambda _: False)
                assert outcomes(knowing, server.url, 2) == ["answered"] * 2
    finally:
        valkey.close()


def test_a_breaker_that_shares_nothing_opens_by_itself(server: Scripted) -> None:
    server.will(DOWN)
    with calling(server.url, None) as client:
        assert outcomes(client, server.url, LEAST + 1) == ["Unavailable"] * LEAST + ["CircuitOpen"]


class FakeClock:
    """A clock that stands until it is put forward."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def by_clock_of(store: redis.Redis, rate: Rate) -> SharedDoor:
    """Return a shared door whose clock is a value in Redis."""
    door = SharedDoor(store, "warehouse", rate)
    clock = "local now = tonumber(redis.call('GET', 'now'))"
    assert shared.CLOCK in shared.ADMIT
    assert shared.CLOCK in shared.SETTLE
    door._admit = store.register_script(shared.ADMIT.replace(shared.CLOCK, clock))
    door._settle = store.register_script(shared.SETTLE.replace(shared.CLOCK, clock))
    door._look = store.register_script(shared.LOOK.replace(shared.CLOCK, clock))
    return door


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.sampled_from([0.5, 1.0, 4.5, 5.0, 9.5, 10.0, 29.5, 30.0, 61.0, 119.5])),
        st.tuples(st.just("enter"), st.integers(1, 12)),
        st.tuples(st.just("leave"), st.sampled_from(list(Verdict))),
        st.tuples(st.just("leave all"), st.sampled_from([Verdict.FAILED, Verdict.FAILED, Verdict.ANSWERED])),
    ),
    min_size=5,
    max_size=40,
)


@given(steps=STEPS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_calls_interleave_both_circuits_say_the_same_and_one_call_probes(
    store: redis.Redis, steps: list[tuple[str, float | int | Verdict]]
) -> None:
    store.flushdb()
    clock = FakeClock()
    ours, theirs = LocalCircuit(clock), by_clock_of(store, PLENTY)
    under_way: list[str] = []
    probe: tuple[str, float] | None = None
    number = 0
    for what, how in steps:
        store.set("now", round(clock.now * 1000))
        if what == "pass":
            clock.now += float(how)
        elif what == "enter":
            for _ in range(int(how)):
                number += 1
                found, same = ours.admit(str(number)), theirs.admit(Ask(str(number))).standing
                assert (found.open_for, found.wait) == (same.open_for, same.wait)
                if found.wait:
                    assert found.wait <= LONGEST
                    continue
                under_way.append(str(number))
                if found.open_for is not None:
                    assert probe is None or clock.now >= probe[1], "two probes at once"
                    probe = (str(number), clock.now + LEASE)
        else:
            leaving = under_way if what == "leave all" else under_way[:1]
            under_way = under_way[len(leaving) :]
            for token in leaving:
                verdict = Verdict(str(how))
                moved, same_move = ours.settle(token, verdict), theirs.settle(Ask(token), verdict).standing
                assert (moved and (moved.open_for, moved.wait)) == (same_move and (same_move.open_for, same_move.wait))
                if probe is not None and token == probe[0]:
                    assert verdict is Verdict.UNTOLD or moved is not None
                    probe = None
                elif moved is not None:
                    assert moved.open_for == 0.0, "only its probe changes a circuit that is open"


def test_failures_of_long_ago_open_nothing() -> None:
    clock = FakeClock()
    circuit = LocalCircuit(clock)
    for number in range(LEAST - 1):
        assert circuit.settle(str(number), Verdict.FAILED) is None
    clock.now += WINDOW + WINDOW / SLICES
    assert circuit.settle("late", Verdict.FAILED) is None


def test_two_upstreams_have_two_circuits(store: redis.Redis, server: Scripted) -> None:
    open_it(store, server)
    assert SharedDoor(store, "stripe", PLENTY).admit(Ask("x")).refusal is None
    with scripted_server() as healthy, calling(healthy.url, None) as client:
        post(client, healthy.url)


def test_whoever_closes_it_by_hand_closes_it_for_all(store: redis.Redis, server: Scripted) -> None:
    open_it(store, server)
    assert SharedDoor(store, "warehouse", PLENTY).reset() == {Hindrance.CIRCUIT}
    assert not SharedDoor(store, "warehouse", PLENTY).reset()
    with calling(server.url, store) as client:
        post(client, server.url)
