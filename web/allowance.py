"""How much of what was refused is kept: enough to see what a sender does wrong, too little to fill a disk.

Each address has an allowance at each source, and each source one for all addresses together. A refusal spends one of
both and they grow again slowly. What is above them is counted in the metrics and forgotten. Each web process has its
own, so many processes keep that much more.
"""

import time
from collections.abc import Callable, Hashable

#: Refused deliveries kept at once, and how many more each minute: of one address, and of a source altogether.
OF_ADDRESS, OF_SOURCE = (10, 1), (60, 2)
#: Bytes of each that are kept.
KEPT_BYTES = 64 * 1024
#: Addresses remembered; the one that was refused longest ago is forgotten first.
REMEMBERED = 10_000


class Allowance:
    """What may still be kept, by source and address.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._addresses = _Buckets(*OF_ADDRESS)
        self._sources = _Buckets(*OF_SOURCE)

    def spend(self, source: str, address: str) -> bool:
        """Take one, and tell whether there was one left."""
        now = self._clock()
        return self._addresses.take((source, address), now) and self._sources.take(source, now)


class _Buckets:
    def __init__(self, most: int, a_minute: int) -> None:
        self._most = most
        self._a_second = a_minute / 60
        self._levels: dict[Hashable, tuple[float, float]] = {}

    def take(self, key: Hashable, now: float) -> bool:
        level, at = self._levels.pop(key, (self._most, now))
        level = min(self._most, level + (now - at) * self._a_second)
        granted = level >= 1
        self._levels[key] = (level - granted, now)
        if len(self._levels) > REMEMBERED:
            del self._levels[next(iter(self._levels))]
        return granted
