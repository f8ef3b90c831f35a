"""How far ahead the relay pushes, with a clock that the test moves."""

import hypothesis.strategies as st
from hypothesis import given

from workers.reach import AHEAD, LEAST, MOST, Reach


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def drained(per_second: float, looks: int, *, every: float = 0.05) -> int:
    """Let workers fetch at this pace while a relay fills up the queue; return how far it reaches in the end."""
    clock = Clock()
    reach = Reach(clock)
    length = 0.0
    for _ in range(looks):
        room = reach.room("q", int(length))
        reach.pushed("q", room)
        length += room
        clock.now += every
        length = max(0.0, length - per_second * every)
    return int(length) + reach.room("q", int(length))


def test_a_queue_that_nobody_fetches_from_holds_a_handful() -> None:
    assert drained(0, 20) == LEAST


def test_a_queue_that_is_drained_at_full_speed_never_runs_dry() -> None:
    assert drained(30_000, 20) >= 30_000 * 0.05


def test_a_queue_holds_about_a_quarter_of_a_second_of_work() -> None:
    assert 0.5 * 2_000 * AHEAD <= drained(2_000, 100) <= 2 * 2_000 * AHEAD


def test_after_a_burst_the_reach_comes_back_to_a_handful() -> None:
    clock = Clock()
    reach = Reach(clock)
    reach.pushed("q", reach.room("q", 0))
    clock.now += 0.001 + 0.01
    assert reach.room("q", 0) > LEAST
    for _ in range(20):
        clock.now += 1
        reach.room("q", 0)
    assert reach.room("q", 0) == LEAST


@given(st.lists(st.tuples(st.integers(0, 20_000), st.floats(0, 10)), max_size=30))
def test_the_room_is_never_negative_and_never_beyond_the_most(looks: list[tuple[int, float]]) -> None:
    clock = Clock()
    reach = Reach(clock)
    for length, passed in looks:
        clock.now += passed
        assert 0 <= reach.room("q", length) <= max(0, MOST - length) or length > MOST
        reach.pushed("q", 1)
