"""Where a job goes on: a small JSON object, saved together with the work it speaks of.

A checkpoint is a column of the run, written in the job's own transaction: what was done and where to go on are kept
together or not at all. The statement names the run *and* the attempt. If the run was taken from this attempt (its
worker was thought dead), it touches no row and raises, so the transaction of a zombie rolls back instead of doing work
again that its successor has done.

The row of the run is locked from here to the commit: save the checkpoint last, just before the transaction ends.
"""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from jobs._arguments import is_keepable
from jobs._signals import Interrupted

#: Bytes of JSON that a checkpoint may take.
LARGEST = 16_384

SAVE = text("""
    UPDATE runs SET checkpoint = CAST(:state AS jsonb)
    WHERE id = :run_id AND attempt = :attempt AND state = 'running' RETURNING id
""")


class BadCheckpoint(ValueError):  # noqa: N818 - reads as what it is in a message
    """A checkpoint cannot be kept; the message says why."""


def save(session: Session | Connection, state: Mapping[str, Any], *, job: str, run_id: int, attempt: int) -> None:
    """Save where the run goes on, in the caller's transaction.

    Raises:
        BadCheckpoint: If it is no small JSON object.
        Interrupted: If the run no longer belongs to this attempt.
    """
    values = {"state": encode(job, state), "run_id": run_id, "attempt": attempt}
    if session.execute(SAVE, values).scalar() is None:
        raise Interrupted(f"run {run_id} was taken from attempt {attempt}: what this transaction did is undone")


def encode(job: str, state: Mapping[str, Any]) -> str:
    """Return a checkpoint as it is stored.

    Raises:
        BadCheckpoint: If it is no JSON object, or larger than is kept.
    """
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise BadCheckpoint(f"job {job}: a checkpoint is an object with text for names, such as {{'page': 12}}")
    try:
        encoded = json.dumps(dict(state), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadCheckpoint(f"job {job}: the checkpoint is not JSON: {error}") from None
    if not is_keepable(encoded):
        raise BadCheckpoint(f"job {job}: Postgres keeps no zero character and no half of a surrogate pair")
    if (size := len(encoded.encode())) > LARGEST:
        raise BadCheckpoint(
            f"job {job}: the checkpoint takes {size} bytes and {LARGEST} are kept; save a place to go on, not data"
        )
    return encoded
