"""How long work is wanted, by the database's clock.

    @job(expires=3600)       nobody wants it any more an hour after it was due, unless an attempt has begun by then
    @job(retry_for=86400)    no attempt begins later than a day after it was due: the end of all retries

Both count from the moment a run is first due, so a run that was planned for tomorrow has its time from tomorrow on.
`options(expires_at=...)` and `options(deadline_at=...)` name a moment instead. What has begun is never cut off by
either of them: that is what a time limit is for.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

_FIRST_DUE = "greatest(clock_timestamp(), coalesce(:due_at, clock_timestamp() + :wait * interval '1 second'))"
#: What an INSERT writes as `expires_at` and `deadline_at`, with the parameters of `Lifetime.values`.
ENDS = f"""
    coalesce(CAST(:expires_at AS timestamptz), {_FIRST_DUE} + CAST(:expires AS float8) * interval '1 second'),
    coalesce(CAST(:deadline_at AS timestamptz), {_FIRST_DUE} + CAST(:retry_for AS float8) * interval '1 second')
"""


@dataclass(frozen=True)
class Lifetime:
    """When a run is wanted no more; without end where nothing is given.

    Args:
        expires: Seconds after it is first due, unless an attempt has begun.
        retry_for: Seconds after it is first due in which attempts may begin.
        expires_at: A moment instead, for one enqueue.
        deadline_at: The same for the end of attempts.

    Raises:
        ValueError: If it would end before it begins.
    """

    expires: float | None = None
    retry_for: float | None = None
    expires_at: datetime | None = None
    deadline_at: datetime | None = None

    def __post_init__(self) -> None:
        if any(seconds is not None and not seconds > 0 for seconds in (self.expires, self.retry_for)):
            raise ValueError("expires and retry_for are seconds, more than 0: leave them out for no end")
        if any(moment is not None and moment.tzinfo is None for moment in (self.expires_at, self.deadline_at)):
            raise ValueError("expires_at and deadline_at need a time zone: datetime.now(UTC) has one")

    def values(self) -> dict[str, Any]:
        """Return the parameters of an INSERT."""
        return {
            "expires": self.expires,
            "retry_for": self.retry_for,
            "expires_at": self.expires_at,
            "deadline_at": self.deadline_at,
        }


FOR_EVER = Lifetime()
