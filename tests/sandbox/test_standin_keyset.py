"""The promise behind every incremental sync: walking upwards misses nobody's final state."""

from array import array
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from sandbox.upstreams.keyset import Keyset
from sandbox.upstreams.paging import Selection, turn

things = st.lists(st.integers(0, 5), min_size=1, max_size=40)  # few instants: ties everywhere
moves = st.lists(st.lists(st.integers(0, 39), max_size=6), max_size=30)


def _pages(keyset: Keyset, limit: int, moved: list[list[int]], repeat: int) -> list[tuple[int, int]]:
    """Walk to the end while the moves happen between pages; return (number, version) as served."""
    selection, position, seen = Selection(keyset, lambda _number: True), (-1, -1), []
    script = iter(moved)
    while True:
        page = turn(selection, position, limit, repeat=repeat)
        assert len(page.numbers) <= limit
        seen += [(number, keyset.version[number]) for number in page.numbers]
        if not page.has_more:
            return seen
        position = page.end
        keyset.touch([number % len(keyset) for number in next(script, [])], 3)


@given(things, st.integers(1, 7), moves, st.integers(0, 3))
def test_a_walk_during_moves_sees_the_final_state_of_every_thing(
    times: list[int], limit: int, moved: list[list[int]], repeat: int
) -> None:
    keyset = Keyset(array("q", times))
    seen = set(_pages(keyset, limit, moved, repeat))
    assert {(number, keyset.version[number]) for number in range(len(keyset))} <= seen


@given(things, st.integers(1, 7))
def test_an_undisturbed_walk_sees_everything_once_and_in_order(times: list[int], limit: int) -> None:
    seen = [number for number, _ in _pages(Keyset(array("q", times)), limit, [], 0)]
    assert seen == sorted(range(len(times)), key=lambda number: (times[number], number))


@given(things, moves, st.integers(-1, 8), st.integers(-1, 40))
def test_after_and_before_agree_with_plain_sorting(
    times: list[int], moved: list[list[int]], time_us: int, number: int
) -> None:
    keyset = Keyset(array("q", times))
    for batch in moved:
        keyset.touch([thing % len(keyset) for thing in batch], 0)
    order = sorted(range(len(keyset)), key=lambda thing: (keyset.updated[thing], thing))
    later = [thing for thing in order if (keyset.updated[thing], thing) > (time_us, number)]
    assert list(keyset.after(time_us, number)) == later
    assert list(keyset.after(time_us, number, among=range(len(keyset)))) == later
    assert list(keyset.before(time_us, number)) == order[: len(order) - len(later)][::-1]


def test_thousands_of_changes_leave_no_stale_entries_behind_for_ever() -> None:
    keyset = Keyset(array("q", [1, 2, 3]))
    for _ in range(5_000):
        keyset.touch([1], 0)
    assert len(keyset._times) < 2_000
    assert list(islice(keyset.after(-1, -1), 10)) == [0, 2, 1]
    assert keyset.version[1] == 5_001
