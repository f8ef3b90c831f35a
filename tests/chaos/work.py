"""The jobs of the chaos run. Each leaves its effect once, by the key that the enqueue gave it.

`effects` holds one row for each mark, whatever happens: that is the idempotency key at work. `tries` holds one row for
each execution that came as far as its effect, so a second one is seen, and counted, and not lost in the conflict.
"""

import time
from random import Random

from sqlalchemy import text

from jobs import Backoff, Context, Unique, every, job
from tests.chaos.invariants import EACH_TENANT, SLOT_SECONDS, TENANTS_TOGETHER

QUEUE = "chaos"
QUICK = Backoff(first=0.05, longest=0.5)
TABLES = """
    CREATE TABLE asked (
        run_id bigint NOT NULL, mark text PRIMARY KEY, not_before timestamptz);
    CREATE TABLE effects (mark text PRIMARY KEY, run_id bigint NOT NULL, attempt int NOT NULL);
    CREATE TABLE tries (mark text NOT NULL, run_id bigint NOT NULL, attempt int NOT NULL)
"""
TRY = text("INSERT INTO tries (mark, run_id, attempt) VALUES (:mark, :run_id, :attempt)")
EFFECT = text("""
    INSERT INTO effects (mark, run_id, attempt) VALUES (:mark, :run_id, :attempt) ON CONFLICT (mark) DO NOTHING
""")


class Unlucky(Exception):  # noqa: N818 - says what it is
    """The attempt fails because its number was drawn."""


@job(queue=QUEUE, backoff=QUICK)
def once(context: Context, *, mark: str, seconds: float = 0) -> None:
    """Leave an effect, after a while."""
    _leave(context, mark, seconds)


@job(queue=QUEUE, max_attempts=4, backoff=QUICK)
def shaky(context: Context, *, mark: str, chance: float) -> None:
    """Fail often, before the effect or after it."""
    luck = Random(f"{mark} {context.attempt}").random()
    if luck < chance / 2:
        raise Unlucky("before the effect")
    _leave(context, mark)
    if luck < chance:
        raise Unlucky("after the effect")


@job(queue=QUEUE, backoff=QUICK, key="tenant", per_key=EACH_TENANT, limit=TENANTS_TOGETHER)
def shared(context: Context, *, mark: str, tenant: str, seconds: float = 0) -> None:
    """Leave an effect, of each tenant only so many at a time."""
    del tenant
    _leave(context, mark, seconds)


@job(queue=QUEUE, max_attempts=4, backoff=QUICK, key="sku", ordered=True)
def serial(context: Context, *, mark: str, sku: str, number: int) -> None:
    """Leave an effect, for each sku in the order of enqueue; one attempt in ten fails."""
    del sku, number
    if Random(f"{mark} {context.attempt}").random() < 0.1:
        raise Unlucky("in its turn")
    _leave(context, mark)


@job(queue=QUEUE, backoff=QUICK, unique=Unique(by=("subject",), during="unfinished"))
def single(context: Context, *, mark: str, subject: str) -> None:
    """Leave an effect; no other run of the subject is there meanwhile."""
    del subject
    _leave(context, mark, 0.01)


@job(queue=QUEUE, backoff=QUICK, schedule=every(seconds=SLOT_SECONDS))
def tick(context: Context) -> None:
    """Leave an effect for each slot that ran."""
    _leave(context, f"slot {context.slot_at}")


def _leave(context: Context, mark: str, seconds: float = 0) -> None:
    values = {"mark": mark, "run_id": context.run_id, "attempt": context.attempt}
    time.sleep(seconds)
    with context.transaction() as session:
        session.execute(TRY, values)
        session.execute(EFFECT, values)
