"""One chaos run from its first server to its verdict.

started      servers, tables, three workers, two relays, two schedulers
stricken     the producer enqueues while faults strike
settled      no fault, no enqueue; everybody is up; nobody repairs anything, and nothing is left to do
judged       the invariants; then sabotages, each of which an invariant must report
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, NullPool, create_engine, text

from models import migrations
from sandbox.fleet import ROOT
from sandbox.services import Services
from tests.chaos import sabotage
from tests.chaos.crew import MEMBERS, Crew
from tests.chaos.faults import LOOK, Faults
from tests.chaos.invariants import Violation, violations
from tests.chaos.producer import Producer
from tests.chaos.work import QUEUE, TABLES
from workers import settings
from workers.runtime import Runtime

#: Seconds for everybody to come up, for the frozen to be buried, and for everything to settle.
UP, BURIED, SETTLED = 60.0, 60.0, 180.0

ENTERED = "SELECT count(*) FROM processes WHERE stopped_at IS NULL"
UNFINISHED = "SELECT count(*) FROM runs WHERE state IN ('waiting', 'queued', 'running')"
STATES = "SELECT state, count(*) FROM runs WHERE queue = :queue GROUP BY state ORDER BY state"
OUTCOMES = """
    SELECT a.outcome, count(*) FROM attempts a JOIN runs r ON r.id = a.run_id
    WHERE r.queue = :queue GROUP BY outcome ORDER BY outcome
"""
COUNTS = """
    SELECT 'enqueues committed', (SELECT count(*) FROM asked)
    UNION ALL SELECT 'enqueues that joined a unique run', (SELECT count(*) - count(DISTINCT run_id) FROM asked)
    UNION ALL SELECT 'effects', (SELECT count(*) FROM effects)
    UNION ALL SELECT 'effects tried again', (SELECT count(*) FROM tries) - (SELECT count(*) FROM effects)
    UNION ALL SELECT 'lost attempts that reached their effect, none of which ended', (
        SELECT count(*) FROM tries t JOIN attempts a ON a.run_id = t.run_id AND a.number = t.attempt
        WHERE a.outcome = 'lost')
    UNION ALL SELECT 'slots', (SELECT count(*) FROM slots WHERE schedule = 'work.tick')
"""


@dataclass(frozen=True)
class Plan:
    """What to do."""

    seed: int
    seconds: float
    #: Runs enqueued per second.
    rate: float
    #: Address of the broker; the Valkey of the trial by default.
    broker: str = ""
    #: How to break the settled ledger before it is judged; not at all by default.
    sabotage: str = ""


@dataclass
class Verdict:
    """What came of it."""

    figures: dict[str, Mapping[str, object]] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    #: Sabotages that no invariant reported.
    unnoticed: list[str] = field(default_factory=list)
    #: Where the logs of a trial that failed were kept.
    logs: Path | None = None

    @property
    def good(self) -> bool:
        """Whether everything adds up, and would have been noticed if not."""
        return not self.violations and not self.unnoticed


class Trial:
    """Everything that one trial runs on.

    Args:
        plan: What to do.
        services: Running servers.
    """

    def __init__(self, plan: Plan, services: Services) -> None:
        self._plan = plan
        self._services = services
        broker = {"BROKER_URL": plan.broker} if plan.broker else {}
        self._environment = os.environ | services.environment() | broker
        self._engine: Engine = create_engine(settings.load(self._environment).core.sqlalchemy_url, poolclass=NullPool)
        self._crew = Crew(services.folder / "processes", self._environment)
        self._faults = Faults(services, self._crew, self._engine, plan.seed)

    def judge(self) -> Verdict:
        """Go through the whole trial."""
        try:
            self._begin()
            with Runtime(settings.load(self._environment), connections=4, name="headrace producer") as runtime:
                producer = Producer(runtime.sessions, self._plan.seed, self._plan.rate)
                began = time.monotonic()
                producer.start()
                self._faults.strike_for(self._plan.seconds)
                producer.stop()
            settling = time.monotonic()
            self._settle()
            settled = time.monotonic()
        finally:
            self._thaw_all()
            self._crew.stop()
        return self._verdict(producer, settled - began, settled - settling)

    def _begin(self) -> None:
        with self._engine.begin() as connection:
            migrations.upgrade(connection)
            connection.execute(text(TABLES))
        self._crew.start()
        assert self._until(lambda: self._number(ENTERED) == len(MEMBERS), UP), "not everybody came up: see their logs"

    def _settle(self) -> None:
        self._until(lambda: not self._crew.frozen, BURIED)
        self._thaw_all()
        self._crew.stop("scheduler")
        self._until(lambda: self._number(UNFINISHED) == 0, SETTLED)

    def _thaw_all(self) -> None:
        for name in sorted(self._crew.frozen):
            self._crew.thaw(name)

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not (met := condition()) and time.monotonic() < deadline:
            self._faults.tend_for(LOOK)
        return met

    def _number(self, statement: str) -> int:
        with self._engine.connect() as connection:
            return int(connection.execute(text(statement)).scalar_one())

    def _verdict(self, producer: Producer, seconds: float, settling: float) -> Verdict:
        verdict = Verdict()
        if self._plan.sabotage:
            with self._engine.begin() as connection:
                sabotage.commit(connection, self._plan.sabotage)
        with self._engine.begin() as connection:
            verdict.violations = violations(connection)
            verdict.unnoticed = [] if verdict.violations else sabotage.unnoticed(connection)
        verdict.figures = self._figures(producer, seconds, settling)
        if not verdict.good:
            verdict.logs = ROOT / ".sandbox" / f"chaos-seed-{self._plan.seed}"
            shutil.copytree(self._services.folder / "processes", verdict.logs, dirs_exist_ok=True)
        return verdict

    def _figures(self, producer: Producer, seconds: float, settling: float) -> dict[str, Mapping[str, object]]:
        outcomes = self._counts(OUTCOMES)
        return {
            "faults survived": {**self._faults.struck, "in all": self._faults.struck.total()},
            "processes started again": dict(self._faults.restarts),
            "runs": self._counts(STATES),
            "attempts": outcomes,
            "": {
                **self._counts(COUNTS),
                "enqueues rolled back on purpose": producer.undone,
                "transactions that a fault refused": producer.refused,
                "seconds to settle": round(settling, 1),
                "runs per second, faults included": round(outcomes.get("succeeded", 0) / seconds),
            },
        }

    def _counts(self, statement: str) -> dict[str, int]:
        with self._engine.connect() as connection:
            rows = connection.execute(text(statement), {"queue": QUEUE} if ":queue" in statement else {})
            return {row[0]: row[1] for row in rows}


def conduct(plan: Plan) -> Verdict:
    """Conduct a trial on servers of its own."""
    with Services.start("chaos", ROOT / ".sandbox") as services:
        return Trial(plan, services).judge()
