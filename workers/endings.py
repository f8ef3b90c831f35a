"""What is said of an attempt when it ends: its error in words, redacted and cut, and what the ledger keeps."""

import traceback
from typing import Any

from dramatiq.middleware import TimeLimitExceeded
from sqlalchemy.exc import DBAPIError

from jobs._policy import Decision
from workers import ledger, logs
from workers.ledger import Claim, Ending


def ending(
    claim: Claim,
    decision: Decision,
    *,
    result: dict[str, Any] | None = None,
    error: BaseException | None = None,
    limit: float = 0,
) -> Ending:
    """Return what is recorded of an attempt.

    Args:
        claim: The attempt.
        decision: What becomes of its run.
        result: What the job returned.
        error: What it raised.
        limit: Its time limit in seconds, for the sentence about it.
    """
    message = decision.reason
    if isinstance(error, TimeLimitExceeded):
        message = f"took longer than its time limit of {limit:g} s"
    elif error is not None:
        message = describe(error)
    return Ending(
        run_id=claim.run_id,
        attempt=claim.attempt,
        state=decision.state,
        outcome=decision.outcome,
        delay=decision.delay,
        counts=decision.counts,
        error=message,
        error_class=type(error).__name__ if error is not None else None,
        traceback=_trace(error) if error is not None and decision.counts else None,
        result=result,
        limited=claim.key is not None or claim.followed,
    )


def describe(error: BaseException) -> str:
    """Return an error as one redacted message, also when the error cannot be printed."""
    try:
        # A refused statement is told by what Postgres said of it; the statement itself is in the traceback.
        message = str(error.orig if isinstance(error, DBAPIError) and error.orig else error)
    except Exception:  # noqa: BLE001 - an error whose message raises is still an error
        message = "its message could not be read"
    return ledger.cut(logs.redact_text(message or type(error).__name__))


def _trace(error: BaseException) -> str:
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-30)
    return ledger.cut(logs.redact_text("".join(lines)), ledger.TRACEBACK_LIMIT)
