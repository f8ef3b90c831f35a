"""What an answer teaches about the upstream's limit: how long to stay away, what is left, what the call cost.

Every upstream has its own names for the same few facts. A connector says which (`Integration.teaching`), and where a
fact is no header at all, such as a cost in the body, it hands in a function. What is taught makes us slower than was
declared, never faster. A moment that nobody can mean is capped at an hour: then one call asks again.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from integrations._retry_after import LONGEST, http_date, retry_after

Headers = Mapping[str, str]

#: Nothing is this many seconds away: who writes more means a date.
_CERTAINLY_A_DATE = 1e9


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one answer taught; None where it said nothing."""

    #: Seconds to stay away, for everybody.
    block: float | None = None
    #: Units that are left until then.
    remaining: float | None = None
    #: Seconds until one unit has come back there.
    interval: float | None = None
    #: Units that the call cost.
    cost: float | None = None


NOTHING = Lesson()


@dataclass(frozen=True, slots=True)
class Teaching:
    """Where an upstream says what it allows; header names are lower case."""

    limit: str = "ratelimit-limit"
    remaining: str = "ratelimit-remaining"
    reset: str = "ratelimit-reset"
    #: Whether the reset is a number of seconds from now, or a moment in seconds since 1970.
    reset_as: Literal["delta", "epoch"] = "delta"
    #: A number of seconds, or a date.
    retry_after: str = "retry-after"
    #: Seconds in which the limit may be used; without them the limit teaches nothing.
    window: float | None = None
    #: Reads from the headers and the body what the call cost, if that is not known before.
    cost: Callable[[Headers, bytes], float | None] | None = None

    def wait(self, headers: Headers) -> float | None:
        """Return for how many seconds an answer that refuses us asks to stay away, up to an hour."""
        asked = retry_after({"retry-after": headers.get(self.retry_after, ""), "date": headers.get("date", "")})
        return self._reset(headers) if asked is None and self._number(headers, self.remaining) == 0 else asked

    def learn(self, headers: Headers, body: bytes) -> Lesson:
        """Read what an answer of any kind says about the limit."""
        remaining, limit = self._number(headers, self.remaining), self._number(headers, self.limit)
        return Lesson(
            block=self._reset(headers) if remaining == 0 else None,
            remaining=remaining,
            interval=self.window / limit if self.window and limit else None,
            cost=self._cost(headers, body),
        )

    def _cost(self, headers: Headers, body: bytes) -> float | None:
        try:
            cost = self.cost(headers, body) if self.cost else None
        except (ValueError, TypeError, LookupError, AttributeError):  # an answer of another shape, such as a refusal
            return None
        return cost if cost is not None and math.isfinite(cost) and cost >= 0 else None

    def _reset(self, headers: Headers) -> float | None:
        value = self._number(headers, self.reset)
        if value is None or (self.reset_as == "delta" and value >= _CERTAINLY_A_DATE):
            return None
        if self.reset_as == "epoch":
            now = http_date(headers.get("date", ""))
            value -= now.timestamp() if now else time.time()
        return min(max(value, 0.0), LONGEST)

    @staticmethod
    def _number(headers: Headers, name: str) -> float | None:
        # Some write `100, 100;w=60`: the first number is the one that holds now.
        text = headers.get(name, "").partition(",")[0].partition(";")[0].strip()
        try:
            value = float(text) if text.isascii() and len(text) < len("1" * 20) else -1.0
        except ValueError:
            return None
        return value if math.isfinite(value) and value >= 0 else None
