"""`python -m tests.benchmarks.bloat`: what history costs, and which storage settings keep the tables small.

A database of its own is filled with ended runs, each with its attempt. Then fresh runs go through their whole life by
the product's own statements (`DUE`, `CLAIM`, `PROGRESS` for one in ten, `FINISH`) at each size of the history. Shown
are the time per run, how much the tables and indexes grew, how many updates stayed in place (HOT), and the dead rows
that are left when autovacuum has had its turns. Each setting is a list of storage parameters of `runs`; one that begins
with `+` is given to the database of the setting before it, for one more churn.

    python -m tests.benchmarks.bloat --setting fillfactor=70 --setting +fillfactor=100 --history 10000 --history 5000000

Autovacuum naps 5 s instead of a minute here, because an hour of churn passes in one minute.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, Engine, create_engine, text

from jobs import _history
from models import State, migrations
from sandbox.postgres import Postgres
from workers import ledger
from workers.ledger import Ending

JOB, QUEUE = "bench.nothing", "bench"
#: Runs that one statement moves, as a relay and a worker do under load.
TOGETHER = 100
#: Runs enqueued ahead of the relay.
AHEAD = 10_000
#: Ended runs written by one statement.
FILL = 250_000
SERVER = {"autovacuum_naptime": "5s", "shared_buffers": "512MB", "max_wal_size": "4GB"}

HISTORY = text("""
    WITH ended AS (
        INSERT INTO runs (job, queue, args, state, attempt, max_attempts, pushes, created_at, due_at, started_at,
                          finished_at, process_id)
        SELECT 'bench.job_' || n % 20, :queue, jsonb_build_object('sku', 'SKU-' || n), 'succeeded', 1, 10, 0,
               at, at, at, at, 1
        FROM generate_series(1, :count) AS n, LATERAL (SELECT now() - interval '20 days' AS at) AS moment
        RETURNING id, finished_at
    )
    INSERT INTO attempts (run_id, number, process_id, started_at, finished_at, outcome)
    SELECT id, 1, 1, finished_at, finished_at, 'succeeded' FROM ended
""")
ENQUEUE = text("""
    INSERT INTO runs (job, queue, args, max_attempts)
    SELECT :job, :queue, jsonb_build_object('sku', 'SKU-' || n), 10 FROM generate_series(1, :count) AS n
""")
PROCESS = "INSERT INTO processes (kind, host, pid, version) VALUES ('worker', 'here', 1, '0') RETURNING id"
SIZES = text("""
    SELECT pg_table_size('runs') AS runs, pg_indexes_size('runs') AS indexes,
           pg_table_size('attempts') + pg_indexes_size('attempts') AS attempts,
           pg_relation_size('runs_due') + pg_relation_size('runs_queued') + pg_relation_size('runs_running') AS moving
""")
COUNTS = text("""
    SELECT n_tup_upd AS updates, n_tup_hot_upd AS hot, n_dead_tup AS dead, autovacuum_count AS vacuums,
        total_autovacuum_time AS vacuuming
    FROM pg_stat_user_tables WHERE relname = 'runs'
""")


@dataclass(frozen=True)
class Figures:
    """What one churn at one size of history cost."""

    setting: str
    history: int
    #: Microseconds for one run on the clock, and of them those that the database computed.
    took: float
    computed: float
    before: dict[str, int]
    after: dict[str, int]
    #: Updates that carried progress only.
    steps: int

    @property
    def cells(self) -> list[str]:
        """One line of the table."""
        grown = {name: self.after[name] - self.before[name] for name in self.after}
        return [
            self.setting,
            f"{self.history:,}",
            f"{self.took:,.0f}",
            f"{self.computed:,.0f}",
            f"{self.before['runs'] / 2**20:,.0f} + {grown['runs'] / 2**20:,.1f}",
            f"{self.before['indexes'] / 2**20:,.0f} + {grown['indexes'] / 2**20:,.1f}",
            f"{self.before['moving'] / 2**20:,.1f} + {grown['moving'] / 2**20:,.1f}",
            f"{grown['attempts'] / 2**20:,.1f}",
            f"{grown['updates']:,}",
            f"{grown['hot']:,} of {self.steps:,}",
            f"{self.after['dead']:,}",
            f"{grown['vacuums']} in {grown['vacuuming'] / 1000:.1f} s",
        ]


COLUMNS = (
    "setting of runs",
    "history",
    "µs per run",
    "of Postgres",
    "runs MiB",
    "its indexes MiB",
    "moving indexes MiB",
    "attempts +MiB",
    "updates",
    "HOT of progress",
    "dead rows",
    "vacuums",
)


def bloat(
    setting: Annotated[list[str], typer.Option(help="Storage parameters of runs: name=value,name=value.")],
    history: Annotated[list[int], typer.Option(help="Ended runs before each churn, ascending.")],
    churn: Annotated[int, typer.Option(min=TOGETHER, help="Runs that live their life at each size.")] = 50_000,
) -> None:
    """Measure each setting at each size of history."""
    engine: Engine | None = None
    with TemporaryDirectory(prefix="headrace-bloat-") as folder, Postgres(Path(folder), durable=True) as postgres:
        _serve(postgres)
        for number, chosen in enumerate(setting):
            sizes = sorted(history)
            if engine is None or not chosen.startswith("+"):
                engine = _fresh(postgres, f"bloat_{number}")
            else:
                sizes = sizes[-1:]
            for figures in _measure(engine, chosen, sizes, churn):
                _show(figures)
            pages = [_prune(engine, after) for after in range(0, min(100_000, sizes[-1]), _history.LARGEST)]
            Console().print(
                f"pruning {_history.LARGEST:,} runs: {statistics.median(pages):.2f} s, at most {max(pages):.2f} s"
            )


def _fresh(postgres: Postgres, name: str) -> Engine:
    url = postgres.create_database(name)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), pool_size=1)
    with engine.begin() as connection:
        migrations.upgrade(connection)
        connection.execute(text("INSERT INTO queues (name) VALUES (:queue)"), {"queue": QUEUE})
    return engine


def _serve(postgres: Postgres) -> None:
    """Give the server the memory of a small production one."""
    admin = create_engine(
        postgres.url.replace("postgresql://", "postgresql+psycopg://", 1), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        for name, value in SERVER.items():
            connection.execute(text(f"ALTER SYSTEM SET {name} = '{value}'"))
    admin.dispose()
    postgres.restart()


def _measure(engine: Engine, setting: str, sizes: list[int], churn: int) -> Iterator[Figures]:
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE runs SET ({setting.removeprefix('+')})"))
    for size in sizes:
        _fill(engine, size)
        before = _look(engine)
        took, computed = _live(engine, churn)
        _let_vacuum(engine)
        yield Figures(setting, size, took * 1e6 / churn, computed * 1e6 / churn, before, _look(engine), churn // 10)


def _fill(engine: Engine, wanted: int) -> None:
    """Write ended runs until there are this many, then tidy up as a quiet night does."""
    with engine.begin() as connection:
        kept = int(connection.execute(text("SELECT count(*) FROM runs")).scalar_one())
    for start in range(kept, wanted, FILL):
        with engine.begin() as connection:
            connection.execute(HISTORY, {"count": min(FILL, wanted - start), "queue": QUEUE})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in ("VACUUM (ANALYZE) runs", "VACUUM (ANALYZE) attempts", "CHECKPOINT"):
            connection.execute(text(statement))


def _live(engine: Engine, count: int) -> tuple[float, float]:
    """Let runs live from their enqueue to their end; return the seconds of all moves, on the clock and of Postgres."""
    with engine.begin() as connection:
        process = int(connection.execute(text(PROCESS)).scalar_one())
        backend = psutil.Process(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
    took = computed = 0.0
    for start in range(0, count, AHEAD):
        with engine.begin() as connection:
            connection.execute(ENQUEUE, {"job": JOB, "queue": QUEUE, "count": min(AHEAD, count - start)})
        began, spent = time.perf_counter(), sum(backend.cpu_times()[:2])
        while _move(engine, process):
            pass
        took += time.perf_counter() - began
        computed += sum(backend.cpu_times()[:2]) - spent
    return took, computed


def _move(engine: Engine, process: int) -> int:
    with engine.begin() as connection:
        due = [run.run_id for run in ledger.take_due(connection, {QUEUE: TOGETHER})]
    with engine.begin() as connection:
        claims = ledger.claim(connection, due, process, [JOB])
    steps = [{"run_id": c.run_id, "attempt": c.attempt, "progress": {"done": 1}} for c in claims[::10]]
    with engine.begin() as connection:
        ledger.write_progress(connection, steps)
    with engine.begin() as connection:
        return ledger.finish(connection, (_ended(c.run_id, c.attempt) for c in claims))


def _ended(run_id: int, attempt: int) -> Ending:
    return Ending(run_id, attempt, State.SUCCEEDED, outcome="succeeded", result={"printed": 1})


def _let_vacuum(engine: Engine) -> None:
    """Wait for the naps of autovacuum that a quiet minute would have."""
    time.sleep(12)
    with engine.connect() as connection:
        working = text("SELECT count(*) FROM pg_stat_progress_vacuum")
        while connection.execute(working).scalar_one():
            time.sleep(0.5)
            connection.rollback()


def _prune(engine: Engine, after: int) -> float:
    """Forget one page of the oldest runs; return the seconds."""
    began = time.perf_counter()
    with engine.begin() as connection:
        values = {"after": after, "size": _history.LARGEST, "succeeded": 10, "cancelled": 10}
        connection.execute(_history.PAGE, values)
    return time.perf_counter() - began


def _look(engine: Engine) -> dict[str, int]:
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    with engine.begin() as connection:
        return _row(connection, SIZES) | _row(connection, COUNTS)


def _row(connection: Connection, statement: Any) -> dict[str, int]:
    return {name: int(value) for name, value in connection.execute(statement).mappings().one().items()}


def _show(figures: Figures) -> None:
    table = Table(*COLUMNS, show_header=True)
    table.add_row(*figures.cells)
    Console(width=220).print(table)


if __name__ == "__main__":
    typer.run(bloat)
