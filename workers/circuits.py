"""What operators see of the circuits of upstreams, in Postgres: written on each change by the process that saw it.

The circuit lives in Redis (`integrations._shared_door`), or in a process while Redis is away. Nothing here decides
whether a call may be made. Runs that need an upstream are held by it before they begin, but never beyond the next
probe it names: whoever died before it could write "closed" holds nobody for longer.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from integrations import Standing
from workers import logs

#: Seconds after the time of a probe that nobody made, from which on the circuit is not called open any more: either no
#: work needs the upstream, or nobody wrote that it closed.
FORGOTTEN = 300

#: The row of an upstream whose circuit is open.
IS_OPEN = f"next_probe_at > now() - interval '{FORGOTTEN} s'"
#: The same, and it is too early for a probe: whoever needs it need not begin.
IS_SHUT = "next_probe_at > now()"

# What was told from the future was told by a clock that is wrong, and counts for nothing.
_NEWER = "(circuit_told_at IS NULL OR circuit_told_at < :at OR circuit_told_at > now() + interval '1 min')"
OPENED = text(f"""
    INSERT INTO upstreams AS u (name, circuit_opened_at, next_probe_at, circuit_error, circuit_told_at)
    VALUES (:name, now() - make_interval(secs => :open_for), now() + make_interval(secs => :wait), :error, :at)
    ON CONFLICT (name) DO UPDATE SET (circuit_opened_at, next_probe_at, circuit_error, circuit_told_at)
        = (excluded.circuit_opened_at, excluded.next_probe_at, excluded.circuit_error, excluded.circuit_told_at)
    WHERE {_NEWER.replace("circuit", "u.circuit")}
""")
CLOSED = text(f"""
    UPDATE upstreams
    SET circuit_opened_at = NULL, next_probe_at = NULL, circuit_error = NULL, circuit_told_at = :at
    WHERE name = :name AND {_NEWER} RETURNING old.circuit_opened_at
""")
ONE = text(f"SELECT 1 FROM upstreams WHERE name = :name AND {IS_OPEN}")
NOW = text("SELECT clock_timestamp()")
OPEN = text(f"""
    SELECT name AS upstream, circuit_opened_at AS opened_at, next_probe_at, circuit_error AS error
    FROM upstreams WHERE {IS_OPEN} ORDER BY name
""")


@dataclass(frozen=True, slots=True)
class CircuitView:
    """An upstream that is left alone."""

    upstream: str
    opened_at: datetime
    next_probe_at: datetime
    #: The failure that opened the circuit or kept it open.
    error: str | None


def tell(engine: Engine, name: str, standing: Standing, error: str | None) -> None:
    """Write how a circuit stands; never raises: the call that saw it goes on."""
    try:
        with engine.begin() as connection:
            write(connection, name, standing, error)
    except SQLAlchemyError:
        logs.get().warning("the change of a circuit is not told: Postgres is away", upstream=name)


def write(connection: Connection, name: str, standing: Standing, error: str | None) -> None:
    """Write how a circuit stands, unless something newer was written."""
    values: dict[str, Any] = {"name": name, "at": datetime.fromtimestamp(standing.at, UTC)}
    if standing.open_for is None:
        if connection.execute(CLOSED, values).scalar() is not None:
            logs.get().info("circuit closed", upstream=name)
        return
    said = logs.first_line(error) if error else None
    spans = {"open_for": standing.open_for, "wait": standing.wait, "error": said}
    connection.execute(OPENED, values | spans)
    logs.get().warning("circuit open", upstream=name, open_for=round(standing.open_for), error=said)


def is_open(connection: Connection, name: str) -> bool:
    """Whether the circuit of an upstream is open, as far as was told."""
    return connection.execute(ONE, {"name": name}).scalar() is not None


def clear(connection: Connection, name: str) -> datetime | None:
    """Write that a circuit is closed, by the word of a person; since when it was open."""
    values = {"name": name, "at": connection.execute(NOW).scalar_one()}
    since: datetime | None = connection.execute(CLOSED, values).scalar()
    return since


def sentence(upstream: str, opened_at: datetime, next_probe_at: datetime, error: str | None) -> str:
    """Say that a circuit is open, since when, and when it is probed."""
    why = f" ({error.rstrip('.')})" if error else ""
    return (
        f"the circuit of {upstream} is open since {opened_at:%Y-%m-%d %H:%M:%S} UTC{why}, next probe at"
        f" {next_probe_at:%H:%M:%S} UTC"
    )


def look(connection: Connection) -> list[CircuitView]:
    """Return the circuits that are open."""
    return [CircuitView(**row) for row in connection.execute(OPEN).mappings()]
