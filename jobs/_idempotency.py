"""Keys by which an upstream recognises an effect that it has had already.

A job is executed at least once. What it does to others is made to happen once by a key that goes with the request:
the upstream answers a second request with the same key by its first answer, and does nothing.

The key of a step is a digest of the step's name and of the *logical run*. That is the run itself, by its id and the
moment it was written, whatever becomes of it: retries, a rescue, a redrive and "run again" all move that row. A run
that a webhook caused is known by the webhook instead (sender and event id), so that a replay, which writes a new run,
has the keys of the first one. The moment is part of it because ids come back where a database is restored to an earlier
state or made anew, and the upstream remembers.
"""

import hashlib

from sqlalchemy import text
from sqlalchemy.orm import Session

#: Characters that a step's name may have.
LONGEST_STEP = 200

LOGICAL = text("""
    SELECT coalesce('event ' || e.source || ' ' || e.external_id,
                    'run ' || r.id || ' of ' || to_char(r.created_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS'))
    FROM runs r LEFT JOIN events e ON e.id = r.event_id WHERE r.id = :id
""")


def logical_run(session: Session, run_id: int) -> str:
    """Return what names the work of a run, the same however often it is tried.

    Raises:
        LookupError: There is no such run.
    """
    found = session.execute(LOGICAL, {"id": run_id}).scalar()
    if found is None:
        raise LookupError(f"there is no run {run_id}, so its steps have no idempotency keys")
    return str(found)


def key(logical: str, step: str) -> str:
    """Return the key of one step of a logical run: 49 plain characters.

    Raises:
        ValueError: The step has no usable name.
    """
    if not 0 < len(step) <= LONGEST_STEP:
        raise ValueError(f"name the step of an idempotency key with 1 to {LONGEST_STEP} characters, such as 'charge'")
    return "headrace-" + hashlib.sha256(f"{logical}\n{step}".encode()).hexdigest()[:40]
