"""Reading and writing the rows that tests of the engine look at, and waiting for what they should become."""

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, text

from workers import ledger
from workers.ledger import Claim

#: What trial jobs leave; part of the databases of tests.
EFFECTS = text("CREATE TABLE IF NOT EXISTS effects (id bigserial PRIMARY KEY, run_id bigint, key text)")


def until(condition: Callable[[], Any], seconds: float = 30, why: str = "it did not happen in time") -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


def enter(connection: Connection, kind: str = "worker") -> int:
    """Enter a live process and return its id."""
    statement = "INSERT INTO processes (kind, host, pid, version) VALUES (:kind, 'here', 1, '0') RETURNING id"
    return int(connection.execute(text(statement), {"kind": kind}).scalar_one())


def run_row(engine: Engine, run_id: int) -> Any:
    """Return a run as it is now."""
    with engine.connect() as connection:
        return connection.execute(text("SELECT * FROM runs WHERE id = :id"), {"id": run_id}).one()


def attempts(engine: Engine, run_id: int) -> list[Any]:
    """Return the attempts of a run, in order."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT * FROM attempts WHERE run_id = :id ORDER BY number"), {"id": run_id})
        return list(found)


def outcomes(engine: Engine, run_id: int) -> list[str]:
    """Return how the attempts of a run ended, in order."""
    return [attempt.outcome for attempt in attempts(engine, run_id)]


def state(engine: Engine, run_id: int) -> str:
    """Return the state of a run."""
    return str(run_row(engine, run_id).state)


def unfinished(engine: Engine) -> int:
    """Return how many runs are not in a final state."""
    return int(one(engine, "SELECT count(*) FROM runs WHERE state IN ('waiting', 'queued', 'running')"))


def one(engine: Engine, statement: str, **values: object) -> Any:
    """Return the one value a statement answers with."""
    with engine.begin() as connection:
        return connection.execute(text(statement), values).scalar()


def change(engine: Engine, statement: str, **values: object) -> None:
    """Do one statement."""
    with engine.begin() as connection:
        connection.execute(text(statement), values)


def claim(engine: Engine, process_id: int, *run_ids: int, jobs: list[str]) -> list[Claim]:
    """Claim runs in a transaction of their own."""
    with engine.begin() as connection:
        return ledger.claim(connection, run_ids, process_id, jobs)
