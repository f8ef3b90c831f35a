"""`python -m tests.workers.trial_jumping_worker`: a real worker on a host whose clock jumps by days at every look."""

import datetime as dt
import time
from itertools import count
from typing import Self

DAY = 86_400.0
_looks = count()
_true_time, _true_datetime = time.time, dt.datetime


def jumping() -> float:
    """Return a time that is days ahead, or days behind."""
    return _true_time() + DAY * (3 if next(_looks) % 2 else -5)


class Jumping(dt.datetime):
    """Reads the same clock."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Self:
        found = _true_datetime.fromtimestamp(jumping(), tz)
        return cls(*found.timetuple()[:6], found.microsecond, found.tzinfo)


if __name__ == "__main__":
    time.time = jumping
    time.time_ns = lambda: int(jumping() * 1e9)
    dt.datetime = Jumping  # type: ignore[misc]

    import typer

    from tests.workers import trial_jobs
    from workers import worker

    assert trial_jobs.effect.queue == "trial"
    typer.run(worker.main)
