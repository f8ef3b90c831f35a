"""What the scheduler costs with ten, a thousand and ten thousand schedules, all of which are due in the same second.

Half of them fire by an interval, half by cron in a zone with daylight saving. A tick takes what is due, a thousand
schedules in one transaction, and leaves a slot and a run for each. A look finds nothing due. Start-up is the first
declaration of as many jobs; the next ones find nothing to change. The memory is that of a real scheduler process.
"""

import signal
import sys
import time
from dataclasses import replace
from typing import Any

import psutil
from sqlalchemy import Connection, Engine, text

from jobs import Job, cron, every
from sandbox._process import Child
from sandbox.fleet import ROOT
from tests.benchmarks.contestants import OURS
from tests.benchmarks.peers import headrace
from tests.benchmarks.plan import Plan
from tests.benchmarks.report import Table, figure
from tests.benchmarks.rounds import Figures, take_turns
from tests.statements import counting
from workers import declaring, settings, slots
from workers.runtime import Runtime

TITLE = "The scheduler's cost, by the number of schedules that are due at once"
SIZES = (10, 1_000, 10_000)
#: Seconds for a scheduler to come up.
PATIENCE = 60.0

MANY = text("""
    INSERT INTO schedules (name, job, rule, zone, next_fire_at)
    SELECT 'tick-' || i, 'headrace.nothing', CASE WHEN i % 2 = 0 THEN 'every 1 h' ELSE 'cron 0 * * * *' END,
        CASE WHEN i % 2 = 0 THEN 'UTC' ELSE 'Europe/Berlin' END, now()
    FROM generate_series(1, :many) AS i
""")
CLEAR = "TRUNCATE schedules, slots, runs, attempts, audit CASCADE"
COLUMNS = ["schedules", "a look, ms", "a tick, ms", "statements", "µs a schedule", "first declaration, ms", "next, ms"]


def measure(plan: Plan) -> Table:
    """Take ticks of each size in turn."""
    OURS.clean(plan.ground)
    environment = OURS.environment(plan.ground, "nothing")
    table = Table(TITLE, [*COLUMNS, "memory, MiB"])
    with Runtime(settings.load(environment), name="ticks") as runtime:

        def one(many: int) -> Figures:
            plan.ground.execute(OURS.name, CLEAR)
            return {**_declared(runtime.machinery, many), **_ticked(runtime.machinery, many)}

        for measured in take_turns([plan.scaled(size) for size in SIZES], one, plan.repeats, plan.say):
            tick = measured.median("tick")
            figures = [measured.median(name) for name in ("look", "tick", "statements")]
            each = None if tick is None else tick * 1000 / measured.contestant
            declarations = [measured.median(name) for name in ("first", "next")]
            memory = _memory(plan, environment, runtime.machinery, measured.contestant)
            cells = [*figures, each, *declarations, memory]
            table.add(f"{measured.contestant:,}", *(figure(cell, failure=measured.failure) for cell in cells))
    plan.ground.execute(OURS.name, CLEAR)
    return table


def _declared(engine: Engine, many: int) -> Figures:
    rules = (every(hours=1), cron("0 * * * *", zone="Europe/Berlin"))
    jobs: list[Job[Any]] = [
        replace(headrace.nothing, name=f"ticks.job_{number}", schedule=rules[number % 2]) for number in range(many)
    ]
    with engine.begin() as connection:
        first = _milliseconds(lambda: declaring.declare(connection, jobs))
    with engine.begin() as connection:
        following = _milliseconds(lambda: declaring.declare(connection, jobs))
        connection.execute(text("DELETE FROM schedules"))
    return {"first": first, "next": following}


def _ticked(engine: Engine, many: int) -> Figures:
    with engine.begin() as connection:
        connection.execute(MANY, {"many": many})
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE schedules"))
    with counting(engine) as statements:
        tick = _milliseconds(lambda: _take_all(engine))
    with engine.begin() as connection:
        look = _milliseconds(lambda: slots.take_due(connection))
    return {"tick": tick, "look": look, "statements": float(len(statements))}


def _take_all(engine: Engine) -> None:
    fired = True
    while fired:
        with engine.begin() as connection:
            fired = bool(slots.take_due(connection))


def _milliseconds(action: Any) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def _memory(plan: Plan, environment: dict[str, str], engine: Engine, many: int) -> float:
    """Return the MiB of a scheduler that has fired so many schedules."""
    plan.ground.execute(OURS.name, CLEAR)
    with engine.begin() as connection:
        connection.execute(text(str(MANY).replace("headrace.nothing", "search.index_changes")), {"many": many})
    command = [sys.executable, "-m", "scheduler"]
    scheduler = Child("scheduler", command, directory=plan.ground.folder, cwd=ROOT, environment=environment)
    try:
        _until_fired(engine, many)
        return psutil.Process(scheduler.pid).memory_info().rss / 2**20
    finally:
        scheduler.stop(signal.SIGTERM)


def _until_fired(engine: Engine, many: int) -> None:
    deadline = time.monotonic() + PATIENCE
    with engine.connect() as connection:
        while _fired(connection) < many:
            assert time.monotonic() < deadline, "the scheduler did not fire"
            connection.rollback()
            time.sleep(0.1)


def _fired(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM slots WHERE schedule LIKE 'tick-%'")).scalar_one())
