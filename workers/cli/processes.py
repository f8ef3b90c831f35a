"""Processes: who is alive, since when, and whose clock is wrong."""

from workers import census
from workers.cli.opening import reading
from workers.cli.options import AsJson
from workers.cli.tables import show
from workers.moments import askew

#: Seconds by which a clock may be wrong before it is worth a word.
WORTH_A_WORD = 0.5

COLUMNS = {
    "process": lambda row: row.kind,
    "host": lambda row: row.host,
    "pid": lambda row: str(row.pid),
    "alive": lambda row: row.alive,
    "queues": lambda row: row.queues,
    "threads": lambda row: row.threads,
    "running": lambda row: row.running,
    "started": lambda row: row.started_at,
    "heartbeat": lambda row: row.heartbeat_at,
    "clock": lambda row: askew(row.clock_skew) if abs(row.clock_skew or 0) >= WORTH_A_WORD else "",
    "version": lambda row: row.version,
}


def processes(*, as_json: AsJson = False) -> None:
    """List the processes that showed a sign of life within the last hour."""
    with reading() as connection:
        rows = census.processes(connection)
    show(rows, COLUMNS, as_json=as_json, empty="no process was alive within the last hour: start a worker and a relay")
