"""How far ahead of the workers the relay pushes, queue by queue.

What is on the broker is out of reach: a run that becomes urgent, a pause, a key whose turn it is all wait behind it. So
a queue holds there only about a quarter of a second of work, measured from how fast its messages are fetched. A queue
that nobody fetches from holds a handful; one that is drained at full speed holds thousands, and never runs dry.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds of work that lie ahead of the workers, and the least and the most messages that may.
AHEAD = 0.25
LEAST = 64
MOST = 10_000
#: Seconds between two measurements at least: shorter ones say more about the clock than about the queue.
MEASURE = 0.01


@dataclass
class _Queue:
    #: Messages on the broker after the last push, and when that was.
    length: int = 0
    at: float = 0.0
    #: Messages fetched per second, lately.
    pace: float = 0.0


class Reach:
    """Measures how fast queues are drained, and answers how much may be pushed.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queues: dict[str, _Queue] = {}

    def room(self, queue: str, length: int) -> int:
        """Return how many messages may be pushed to a queue that has `length` of them on the broker."""
        seen = self._queues.setdefault(queue, _Queue(length, self._clock()))
        passed = self._clock() - seen.at
        if passed >= MEASURE:
            fetched = max(0, seen.length - length) / passed
            # Growth is believed at once, so that an empty queue fills in a few looks; a lull only by halves.
            seen.pace = max(fetched, seen.pace / 2)
            seen.length, seen.at = length, self._clock()
        return max(0, min(MOST, max(LEAST, int(seen.pace * AHEAD))) - length)

    def pushed(self, queue: str, count: int) -> None:
        """Say that messages were pushed."""
        self._queues[queue].length += count
