"""Processes: who is alive, and since when."""

from workers import census
from workers.cli.opening import reading
from workers.cli.options import AsJson
from workers.cli.tables import show

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
    "version": lambda row: row.version,
}


def processes(*, as_json: AsJson = False) -> None:
    """List the processes that showed a sign of life within the last hour."""
    with reading() as connection:
        rows = census.processes(connection)
    show(rows, COLUMNS, as_json=as_json, empty="no process was alive within the last hour: start a worker and a relay")
