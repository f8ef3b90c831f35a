"""How many runs a worker may hold, followed through calm and busy times."""

import time
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.window import MOST_AHEAD, Window


def settled(threads: int, seconds: float) -> Window:
    """Return a window that has seen many runs of this length and holds none."""
    window = Window(threads)
    for _ in range(200):
        window.take(0)
        window.done(seconds)
        window.give_back(window.held)
    return window


def test_a_worker_of_long_runs_holds_no_more_than_it_has_threads() -> None:
    window = settled(4, 2.0)
    assert (window.take(0), window.take(0)) == (4, 0)


def test_a_worker_of_short_runs_holds_a_larger_set() -> None:
    assert settled(4, 0.0).take(0) == 4 + MOST_AHEAD
    assert settled(4, 0.01).take(0) == pytest.approx(4 + 20, abs=1)


def test_room_comes_back_when_a_run_ends_or_was_not_used() -> None:
    window = Window(2)
    assert window.take(0) == 2
    window.done(2.0)
    assert window.take(0) == 1
    window.give_back(2)
    assert (window.held, window.take(0)) == (0, 2)


def test_whoever_waits_for_room_gets_it_as_soon_as_there_is_some() -> None:
    window = Window(1)
    window.take(0)
    taken: list[int] = []
    waiter = Thread(target=lambda: taken.append(window.take(30)))
    waiter.start()
    window.done(1.0)
    waiter.join(20)
    assert taken == [1]


def test_whoever_waits_while_runs_are_short_is_woken_once_half_of_what_lies_ahead_is_done() -> None:
    window = settled(4, 0.0)
    window.take(0)
    taken: list[int] = []
    waiter = Thread(target=lambda: taken.append(window.take(30)))
    waiter.start()
    for _ in range(MOST_AHEAD // 2):
        window.done(0.0)
    waiter.join(20)
    assert taken == [MOST_AHEAD // 2]


def test_waiting_for_room_ends_in_time() -> None:
    window = Window(1)
    window.take(0)
    started = time.monotonic()
    assert window.take(0.05) == 0
    assert time.monotonic() - started >= 0.05


def test_a_closed_window_allows_nothing_more() -> None:
    window = Window(3)
    window.take(0)
    window.close()
    window.done(0.5)
    assert window.take(0) == 0


@given(st.integers(1, 16), st.lists(st.one_of(st.none(), st.floats(0, 10)), max_size=60))
def test_a_worker_never_holds_more_than_its_threads_and_the_most_ahead(
    threads: int, endings: list[float | None]
) -> None:
    window = Window(threads)
    for seconds in endings:
        if seconds is None or not window.held:
            window.take(0)
        else:
            window.done(seconds)
        assert 0 <= window.held <= threads + MOST_AHEAD
