"""How many runs a worker may hold at once.

A claimed run that only waits for a thread is a run that nobody else can take, so a worker holds no more than it has
threads. While runs are so short that fetching them costs more than running them, it may hold a larger set: the window
follows a moving average of how long a run takes.
"""

import time
from threading import Condition

#: Runs held in advance when they take no time at all, and the seconds of work that may lie in advance.
MOST_AHEAD = 256
SECONDS_AHEAD = 0.05
#: Weight of the newest duration in the average.
FRESHNESS = 0.1


class Window:
    """The allowance of one worker process, shared by the consumers of its queues.

    Args:
        threads: Runs that may execute at the same time.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._held = 0
        self._average = 1.0
        self._closed = False
        self._changed = Condition()

    @property
    def held(self) -> int:
        """Runs held now."""
        return self._held

    def take(self, seconds: float) -> int:
        """Reserve all the room there is, waiting up to the given time for some; return how much, perhaps 0."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while (room := self._room()) < self._worth():
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            room = max(0, room)
            self._held += room
            return room

    def add(self, runs: int) -> None:
        """Say that more runs are held, although there may be no room for them."""
        with self._changed:
            self._held += runs

    def close(self) -> None:
        """Allow nothing more: the process is stopping."""
        with self._changed:
            self._closed = True

    def give_back(self, room: int) -> None:
        """Return room that was reserved and not used."""
        with self._changed:
            self._held -= room
            self._changed.notify_all()

    def done(self, seconds: float) -> None:
        """Say that a held run ended after the given time."""
        with self._changed:
            self._held -= 1
            self._average += FRESHNESS * (seconds - self._average)
            if self._room() >= self._worth():  # woken for each run, a consumer would mostly go to sleep again
                self._changed.notify_all()

    def _ahead(self) -> int:
        return min(MOST_AHEAD, int(self._threads * SECONDS_AHEAD / max(self._average, 1e-6)))

    def _room(self) -> int:
        return self._size() - self._held

    def _worth(self) -> int:
        """Return the least room that is worth a fetch."""
        return max(1, self._ahead() // 2)

    def _size(self) -> int:
        return 0 if self._closed else self._threads + self._ahead()
