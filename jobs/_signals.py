"""What a job may raise to steer its own run.

Snooze        not now: back to waiting, no attempt burnt
Cancel        not at all: ends as cancelled
Interrupted   raised for the job by `context.check()`: the process stops, the run goes back uncounted
"""


class Snooze(Exception):  # noqa: N818 - a request, not an error
    """Put the run back for `delay` seconds without burning an attempt.

    Args:
        delay: Seconds until it is due again, at least 0.
        reason: Why it waits; shown as the run's error line.
    """

    def __init__(self, delay: float, reason: str) -> None:
        super().__init__(reason)
        self.delay = max(0.0, delay)


class Cancel(Exception):  # noqa: N818 - a request, not an error
    """End the run as cancelled. The message says why."""


class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """The process is stopping; whatever the current transaction did is rolled back and the run goes back."""
