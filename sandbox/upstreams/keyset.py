"""Things in the order of their last change, to be walked page by page while they keep changing.

A list of changes ordered by (time, number) to which every change appends; the entry it supersedes stays behind
and is recognised as stale because its time is no longer the thing's own. Finding a page is a bisection, so the last
page of two million costs what the first one does. When as many entries are stale as alive, the list is rebuilt.

A change is always stamped later than every change before it. So whoever walks upwards meets each thing's final
state: a thing either still lies ahead, or moved ahead.
"""

from __future__ import annotations  # array.array takes a type argument only from Python 3.12 on

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Keyset:
    """Time, version and tombstone of the things 0..n-1, and the walk over them.

    Args:
        updated: when each thing last changed, in µs since 1970; kept and modified.
    """

    def __init__(self, updated: array[int]) -> None:
        self.updated = updated
        self.version = array("I", [1]) * len(updated)
        self.deleted = bytearray(len(updated))
        self.revision = 0
        self._rebuild()

    def __len__(self) -> int:
        return len(self.updated)

    def touch(self, numbers: Iterable[int], now_us: int) -> None:
        """Record that these things changed together, at `now_us` or just after the last change if that is later."""
        at = max(now_us, self._times[-1] + 1)
        for number in sorted(set(numbers)):
            self.updated[number] = at
            self.version[number] += 1
            self._times.append(at)
            self._numbers.append(number)
        self.revision += 1
        if len(self._times) > 2 * len(self.updated) + 1_000:
            self._rebuild()

    def after(self, time_us: int, number: int, among: Iterable[int] | None = None) -> Iterator[int]:
        """Yield the numbers of all things (or of those `among`) whose (time, number) is greater, ascending."""
        if among is not None:
            yield from sorted(self._later(among, (time_us, number)), key=self._position)
            return
        for slot in range(self._slot_after(time_us, number), len(self._times)):
            if self._alive(slot):
                yield self._numbers[slot]

    def before(self, time_us: int, number: int) -> Iterator[int]:
        """Yield the numbers of all things whose (time, number) is the same or smaller, descending."""
        for slot in range(self._slot_after(time_us, number) - 1, -1, -1):
            if self._alive(slot):
                yield self._numbers[slot]

    def _position(self, number: int) -> tuple[int, int]:
        return self.updated[number], number

    def _later(self, among: Iterable[int], position: tuple[int, int]) -> Iterator[int]:
        return (number for number in among if self._position(number) > position)

    def _slot_after(self, time_us: int, number: int) -> int:
        low = bisect_left(self._times, time_us)
        high = bisect_right(self._times, time_us, low)
        return bisect_right(self._numbers, number, low, high)

    def _alive(self, slot: int) -> bool:
        return self._times[slot] == self.updated[self._numbers[slot]]

    def _rebuild(self) -> None:
        # Sorting is stable and the numbers start ascending: ties end up in the order of their numbers.
        order = sorted(range(len(self.updated)), key=self.updated.__getitem__)
        self._numbers = array("I", order)
        self._times = array("q", (self.updated[number] for number in order))
