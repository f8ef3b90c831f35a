"""What the acceptance tests ask of a running whole: how far it is, and whether everything adds up.

The system settles by itself; nobody here repairs anything. What is compared is the stand-in's own truth, Postgres and
the index, item by item.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from elasticsearch import Elasticsearch
from sqlalchemy import text

from sandbox.comparison import Comparison, compare
from sandbox.stage import Stage
from tests.workers.asking import told

#: Seconds the system gets to heal: a dead worker is noticed after 15, the rest is room for a slow machine.
HEALING = 120.0

STATE = "SELECT count(*) FROM runs WHERE id = :run AND state = :state"
UNDER_WAY = "SELECT count(*) FROM runs WHERE id = :run AND state = 'running' AND progress IS NOT NULL"
LIVE_GENERATION = "SELECT max(id) FROM generations WHERE state = 'live'"


def look(stage: Stage) -> Comparison:
    """Compare source, Postgres and index."""
    client = Elasticsearch(stage.services.search.url)
    try:
        with stage.engine.begin() as connection:
            return compare(stage.upstreams.admin, connection, client)
    finally:
        client.close()


def adds_up(stage: Stage) -> None:
    """Wait until nothing is left to do, then demand that nothing differs, no run died and every webhook is kept."""
    stage.settle(seconds=HEALING)
    found = look(stage)
    assert found.mismatches == 0, found.examples
    assert found.products == found.documents > 0
    assert found.stock_levels > 0
    assert dead(stage) == []
    senders = stage.upstreams.admin.stats()["webhooks"].values()
    sent = sum(sender["created"] - sender["duplicate"] for sender in senders)
    assert stage.number("SELECT count(*) FROM events WHERE verdict IN ('accepted', 'ignored')") == sent


def dead(stage: Stage) -> list[Any]:
    """Return job and error of every dead run."""
    with stage.engine.begin() as connection:
        return list(connection.execute(text("SELECT job, error FROM runs WHERE state = 'dead'")))


def run(stage: Stage, job: str, *options: str) -> int:
    """Enqueue a job as an operator would; return the run's id."""
    return int(told(stage.environment, "run", job, *options))


def succeeded(stage: Stage, run_id: int) -> None:
    """Wait until a run has succeeded."""
    stage.wait_for(
        f"run {run_id} to succeed", lambda: stage.number(STATE, run=run_id, state="succeeded") == 1, seconds=HEALING
    )


def attempts(stage: Stage, run_id: int) -> list[str]:
    """Return how each ended attempt of a run came out, in order."""
    statement = text("SELECT outcome FROM attempts WHERE run_id = :run ORDER BY number")
    with stage.engine.begin() as connection:
        return list(connection.execute(statement, {"run": run_id}).scalars())


def error(stage: Stage, run_id: int) -> str:
    """Return the sentence that a run bears now."""
    with stage.engine.begin() as connection:
        return str(connection.execute(text("SELECT error FROM runs WHERE id = :run"), {"run": run_id}).scalar())


@contextmanager
def unannounced(stage: Stage) -> Iterator[None]:
    """Let the warehouse change without sending webhooks: only a sync can bring such changes."""
    stage.upstreams.admin.send_webhooks_to(None)
    try:
        yield
    finally:
        stage.upstreams.admin.send_webhooks_to(stage.web_url)


@contextmanager
def sync_under_way(stage: Stage) -> Iterator[int]:
    """Begin a sync that has much to bring and takes its time; the block begins when its progress shows.

    The pace is back to normal at the end of the block, and the run has succeeded.
    """
    with unannounced(stage):
        stage.upstreams.admin.sell(400)
    stage.upstreams.admin.faults(latency_ms=700)
    run_id = run(stage, "warehouse.sync", "--arg", "full=true")
    stage.wait_for("progress of the sync", lambda: stage.number(UNDER_WAY, run=run_id) == 1, seconds=HEALING)
    yield run_id
    stage.upstreams.admin.reset_faults()
    succeeded(stage, run_id)


@contextmanager
def webhooks_under_way(stage: Stage, sales: int = 400) -> Iterator[None]:
    """Begin to deliver webhooks; the block begins when some were accepted and many were not.

    All of them are accepted at the end of the block.
    """
    before = accepted(stage)
    stage.upstreams.admin.sell(sales)
    stage.wait_for("the first webhooks", lambda: accepted(stage) > before + 10, seconds=HEALING)
    assert pending(stage) > 0, "too fast to be disturbed: raise the number of sales"
    yield
    stage.wait_for("the last webhook", lambda: pending(stage) == 0, seconds=HEALING)


def accepted(stage: Stage) -> int:
    """Return how many deliveries the warehouse saw accepted."""
    return int(stage.upstreams.admin.stats()["webhooks"]["warehouse"]["accepted"])


def pending(stage: Stage) -> int:
    """Return how many deliveries the warehouse still has to make."""
    return int(stage.upstreams.admin.stats()["webhooks"]["warehouse"]["pending"])
