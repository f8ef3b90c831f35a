"""What operators see of an upstream that asked us to stay away, in Postgres: written by the process that was told.

The block itself is in Redis with the budget (`integrations._shared_budget`), and holds every call. What is written here
holds runs before they begin, so that work which would only be refused does not use up workers. It says until when, and
holds nobody for longer: nothing has to be taken back.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from integrations import OutOfBudget
from workers import logs

#: Seconds below which a block is not worth a row: whoever meets it waits on the spot.
SHORTEST = 1.0

#: The row of an upstream that wants to be left in peace.
IS_THROTTLED = "throttled_until > now()"
COLUMNS = "throttled_at, throttled_until, throttle_reason"

# Only what lasts longer is written over what is known, or many who were told at once would each write.
TOLD = text(f"""
    INSERT INTO upstreams AS u (name, {COLUMNS})
    VALUES (:name, now(), now() + make_interval(secs => :wait), :reason)
    ON CONFLICT (name) DO UPDATE SET throttled_until = excluded.throttled_until,
        throttle_reason = excluded.throttle_reason,
        throttled_at = CASE WHEN u.{IS_THROTTLED} THEN u.throttled_at ELSE excluded.throttled_at END
    WHERE u.throttled_until IS NULL OR u.throttled_until < excluded.throttled_until - interval '1 s'
""")
OVER = text("""
    UPDATE upstreams SET throttled_at = NULL, throttled_until = NULL, throttle_reason = NULL
    WHERE name = :name AND throttled_until IS NOT NULL
    RETURNING CASE WHEN old.throttled_until > now() THEN old.throttled_until END
""")
UNTIL = text(f"SELECT throttled_until FROM upstreams WHERE name = :name AND {IS_THROTTLED}")


def tell(engine: Engine, name: str, wait: float, reason: str) -> None:
    """Write that an upstream asked for patience; never raises: the call that was told goes on."""
    if wait < SHORTEST:
        return
    try:
        with engine.begin() as connection:
            write(connection, name, wait, reason)
    except SQLAlchemyError:
        logs.get().warning("that an upstream throttles us is not told: Postgres is away", upstream=name)


def write(connection: Connection, name: str, wait: float, reason: str) -> None:
    """Write that an upstream asked for so many seconds of patience."""
    said = logs.first_line(reason)
    if connection.execute(TOLD, {"name": name, "wait": wait, "reason": said}).rowcount:
        logs.get().warning("upstream throttles us", upstream=name, wait=round(wait), reason=said)


def until(connection: Connection, name: str) -> datetime | None:
    """Return until when an upstream wants to be left in peace, if that is not over."""
    found: datetime | None = connection.execute(UNTIL, {"name": name}).scalar()
    return found


def clear(connection: Connection, name: str) -> datetime | None:
    """Write that an upstream may be asked again, by the word of a person; until when it would have been left alone."""
    found: datetime | None = connection.execute(OVER, {"name": name}).scalar()
    return found


def sentence(row: Any, now: datetime) -> str:
    """Say when the budget of an upstream refills, and how it said so.

    Args:
        row: Its row.
        now: The database's clock.
    """
    seconds = max(0.0, (row.throttled_until - now).total_seconds())
    why = in_short(row.throttle_reason)
    return (
        f"the budget of {row.name} refills in {seconds:.0f} s, at {row.throttled_until:%H:%M:%S} UTC"
        f"{f' ({why})' if why else ''}"
    )


def in_short(reason: str | None) -> str:
    """Return how an upstream said that it wants peace, without the advice that follows."""
    return (reason or "").partition(": the work waits")[0].rstrip(".")


def held(row: Any, now: datetime) -> OutOfBudget:
    """Return what puts a run back that needs such an upstream."""
    wait = max(0.0, (row.throttled_until - now).total_seconds())
    return OutOfBudget(sentence(row, now), upstream=row.name, retry_after=wait)
