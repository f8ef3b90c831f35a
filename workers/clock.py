"""The database's clock, read by a process without asking it each time.

The clock of a worker's host may be wrong, and may jump. So a moment is noted by the monotonic clock, which does
neither, and told in the database's time when it is written: the difference of the two is measured now and then.
"""

import math
import time

from sqlalchemy import Connection, text

#: Seconds for which a measurement is good: two machines drift apart by little, but a new primary may differ by more.
GOOD_FOR = 600.0

NOW = text("SELECT extract(epoch FROM clock_timestamp())::float8")


class DatabaseClock:
    """Translates moments of this process's monotonic clock."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._measured = -math.inf

    def measure(self, connection: Connection) -> None:
        """Ask the database what time it is, unless that was done a while ago."""
        asked = time.monotonic()
        if asked - self._measured < GOOD_FOR:
            return
        there = float(connection.execute(NOW).scalar_one())
        self._measured = time.monotonic()
        self._ahead = there - (asked + self._measured) / 2

    def moment(self, noted: float) -> float:
        """Return a moment in seconds since 1970, by the database's clock."""
        return noted + self._ahead
