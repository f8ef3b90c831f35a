"""Who is measured, and how one round of each goes.

Everybody runs the same three jobs in the same shape: two processes, the asked concurrency shared between them. The
one exception is RQ, whose worker runs one job at a time: it gets as many processes instead. Each is started before the
clock and let go at once. The peers are counted from their first job to their last, those with a database until it shows
the last as done. Ours starts cold: its runs are enqueued while the queue is paused, the clock starts when the queue is
resumed, and stops when Postgres shows the last run as ended, with the relay, the claim and the outcome on the way.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count as counting
from pathlib import Path

import psutil

from sandbox._process import Child
from sandbox.fleet import Fleet
from tests.benchmarks import environments
from tests.benchmarks.crew import Crew, GaveUp, ask
from tests.benchmarks.ground import Ground
from tests.benchmarks.peers.contract import Work

#: Seconds that one step of a round may take before its contestant is given up.
PATIENCE = 90.0
LOOK = 0.005
PROCESSES = 2
#: Jobs for each place of the concurrency that warm workers up before paced ones are measured.
WARM_UP = 2

_numbers = counting(1)


def _ours() -> list[str]:
    return [sys.executable, "-m"]


def _pypi() -> list[str]:
    return [str(environments.python()), "-m"]


@dataclass(frozen=True)
class Drained:
    """One round of a drain."""

    per_second: float
    #: Processor seconds of the workers (and of our relay) for a thousand jobs.
    cpu: float


@dataclass(frozen=True)
class Contestant:
    """A library in one of its settings."""

    name: str
    label: str
    #: What is left of a job after a crash of its broker, in a word for the table.
    keeps: str
    #: Jobs a round has, so that it takes a few seconds.
    jobs: int
    module: str
    interpreter: Callable[[], list[str]] = _pypi
    variables: Mapping[str, str] = field(default_factory=dict)
    postgres: bool = False
    single: bool = False
    #: How it enqueues many; empty when there is only one by one.
    bulk: str = ""
    #: Whether its database still shows a job as not done: a job has ended when that is on record.
    left: str = ""

    def __str__(self) -> str:
        return self.name

    def command(self, *request: object) -> list[str]:
        """Return the command line of a request; see `contract.py`."""
        return [*self.interpreter(), self.module, *map(str, request)]

    def environment(self, ground: Ground, work: Work) -> dict[str, str]:
        """Return all that its programs see of the environment."""
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "REDIS_URL": ground.redis_url(),
            "DATABASE_URL": ground.database(self.name)[0],
            "ELASTICSEARCH_URL": ground.services.search.url,
            "BENCH_WORK": work,
            **self.variables,
        }

    def clean(self, ground: Ground) -> None:
        """Begin a round with empty stores."""
        ground.wipe()
        if self.postgres:
            ground.drop(self.name)
            ground.database(self.name)
            ask(self.command("prepare"), self.environment(ground, "nothing"), PATIENCE)

    def enqueue(self, ground: Ground, role: str, work: Work, count: int) -> float:
        """Enqueue with nobody working, `fill` or `send`; return jobs per second."""
        said = ask(self.command(role, work, count), self.environment(ground, work), PATIENCE)
        told = json.loads(said.splitlines()[-1])
        return float(told["count"]) / float(told["seconds"])

    def drain(self, ground: Ground, work: Work, count: int, concurrency: int) -> Drained:
        """Enqueue, let workers go, and time them."""
        self.clean(ground)
        self.enqueue(ground, "fill", work, count)
        with self.crew(ground, work, concurrency) as crew:
            crew.ready()
            if self.postgres:
                ground.settle(self.name)
            before = crew.cpu()
            crew.go()
            done = crew.done(count, PATIENCE)
            last = self.recorded(ground, done.last)
            return Drained((count - 1) / max(1e-9, last - done.first), (crew.cpu() - before) / count * 1000)

    def recorded(self, ground: Ground, last: float) -> float:
        """Return the moment from which on nothing shows as not done, at the earliest when the last job was run.

        Raises:
            GaveUp: If that never comes.
        """
        if not self.left or not self._left(ground):
            return last
        deadline = time.monotonic() + PATIENCE
        while self._left(ground):
            if time.monotonic() > deadline:
                raise GaveUp("the last jobs did not end")
            time.sleep(LOOK)
        return time.monotonic()

    def _left(self, ground: Ground) -> bool:
        return bool(ground.execute(self.name, f"SELECT EXISTS ({self.left})")[0][0])

    def latencies(self, ground: Ground, count: int, rate: float, concurrency: int) -> list[tuple[float, float]]:
        """Return the seconds from the call of each paced enqueue, and from its return, to the start of its job."""
        self.clean(ground)
        with self.working(ground, "stamp", concurrency) as crew:
            said = ask(self.command("pace", count, rate), self.environment(ground, "stamp"), PATIENCE + count / rate)
            crew.done(count + WARM_UP * concurrency, PATIENCE)
            starts = dict(crew.leave())
        calls = json.loads(said.splitlines()[-1])
        return [((starts[n] - called) / 1e9, max(0, starts[n] - returned) / 1e9) for n, called, returned in calls]

    @contextmanager
    def working(self, ground: Ground, work: Work, concurrency: int) -> Iterator[Crew]:
        """Have workers that run whatever comes while a block runs."""
        with self.crew(ground, work, concurrency) as crew:
            crew.ready()
            crew.go()
            self.enqueue(ground, "send", work, WARM_UP * concurrency)
            crew.done(WARM_UP * concurrency, PATIENCE)
            yield crew

    def crew(self, ground: Ground, work: Work, concurrency: int) -> Crew:
        """Start its workers; they wait at the gate."""
        members, each = (concurrency, 1) if self.single else (PROCESSES, concurrency // PROCESSES)
        folder = ground.folder / f"{next(_numbers)}-{self.name}"
        return Crew(self.command("work", each), members, self.environment(ground, work), folder)


@dataclass(frozen=True)
class Ours(Contestant):
    """Headrace: its database stays from round to round, so history gathers as it does in life."""

    #: A database of Valkey for each of several engines that exist at the same time.
    number: int = 0

    def environment(self, ground: Ground, work: Work) -> dict[str, str]:
        return super().environment(ground, work) | {"REDIS_URL": ground.redis_url(self.number)}

    def clean(self, ground: Ground) -> None:
        ground.wipe(self.number)
        if ground.database(self.name)[1]:
            ask(self.command("prepare"), self.environment(ground, "nothing"), PATIENCE)
        ground.execute(
            self.name, "DELETE FROM runs WHERE state IN ('waiting', 'queued', 'running') AND due_at <= now()"
        )

    def drain(self, ground: Ground, work: Work, count: int, concurrency: int) -> Drained:
        self.clean(ground)
        ground.execute(self.name, "UPDATE queues SET paused_at = now() WHERE name = 'bench'")
        self.enqueue(ground, "fill", work, count)
        with self.engine(ground, work, concurrency) as (crew, relay):
            ground.settle(self.name)
            before = crew.cpu() + _cpu(relay)
            started = time.monotonic()
            ground.execute(self.name, "UPDATE queues SET paused_at = NULL WHERE name = 'bench'")
            seconds = self.recorded(ground, crew.done(count, PATIENCE).last) - started
            used = crew.cpu() + _cpu(relay) - before
            crew.leave()
            return Drained(count / seconds, used / count * 1000)

    @contextmanager
    def working(self, ground: Ground, work: Work, concurrency: int) -> Iterator[Crew]:
        ground.execute(self.name, "UPDATE queues SET paused_at = NULL WHERE name = 'bench'")
        with self.engine(ground, work, concurrency) as (crew, _):
            self.enqueue(ground, "send", work, WARM_UP * concurrency)
            crew.done(WARM_UP * concurrency, PATIENCE)
            yield crew

    @contextmanager
    def engine(self, ground: Ground, work: Work, concurrency: int) -> Iterator[tuple[Crew, Child]]:
        """Have a relay and workers that have entered their rows."""
        alive = "SELECT count(*) FROM processes WHERE stopped_at IS NULL AND heartbeat_at > now() - interval '10 s'"
        before = int(ground.execute(self.name, alive)[0][0])
        with self.crew(ground, work, concurrency) as crew, _relay(ground, self.environment(ground, work)) as relay:
            crew.ready()
            crew.go()
            deadline = time.monotonic() + PATIENCE
            while int(ground.execute(self.name, alive)[0][0]) < before + PROCESSES + 1:
                if time.monotonic() > deadline:
                    raise GaveUp("its processes did not come up")
                time.sleep(LOOK)
            yield crew, relay


@contextmanager
def _relay(ground: Ground, environment: Mapping[str, str]) -> Iterator[Child]:
    others = {name: value for name, value in environment.items() if name != "PATH"}  # a fleet finds our interpreter
    fleet = Fleet(ground.folder / f"{next(_numbers)}-relay", others)
    try:
        name = fleet.start("relay")[0]
        yield fleet.members[name]
    finally:
        fleet.close()


def _cpu(child: Child) -> float:
    times = psutil.Process(child.pid).cpu_times()
    return float(times.user + times.system)


def _npm() -> list[str]:
    environments.node_modules()
    return ["node"]


@dataclass(frozen=True)
class OfNode(Contestant):
    """A library of Node; its programs lie here, its packages in the peers' environment."""

    interpreter: Callable[[], list[str]] = _npm

    def environment(self, ground: Ground, work: Work) -> dict[str, str]:
        return super().environment(ground, work) | {"NODE_PATH": str(environments.node_modules())}


def _python(name: str, label: str, keeps: str, jobs: int, **options: object) -> Contestant:
    return Contestant(name, label, keeps, jobs, f"tests.benchmarks.peers.{name.partition('-')[0]}", **options)  # type: ignore[arg-type]


def _node(name: str, label: str, keeps: str, jobs: int, **options: object) -> Contestant:
    program = Path(__file__).parent / "node" / f"{name.partition('-')[0]}.cjs"
    return OfNode(name, label, keeps, jobs, str(program), **options)  # type: ignore[arg-type]


#: Where each database shows what is not done.
RUNS = "SELECT FROM runs WHERE state = 'running' UNION ALL SELECT FROM runs WHERE state = 'queued'"
GRAPHILE = "SELECT FROM graphile_worker._private_jobs"
PGBOSS = "SELECT FROM pgboss.job WHERE state < 'completed'"
PROCRASTINATE = "SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"

BEST = {"BENCH_VARIANT": "best", "dramatiq_queue_prefetch": "256"}
NOTHING, QUEUE_ONLY, ROWS = "nothing", "jobs not done", "jobs not done, durable"

OURS = Ours(
    "headrace",
    "Headrace",
    "every run and attempt, durable",
    40_000,
    "tests.benchmarks.peers.headrace",
    _ours,
    postgres=True,
    bulk="one transaction",
    left=RUNS,
)
DRAMATIQ = _python("dramatiq", "Dramatiq", NOTHING, 12_000, interpreter=_ours)
DRAMATIQ_BEST = _python("dramatiq-best", "Dramatiq at its best", NOTHING, 24_000, interpreter=_ours, variables=BEST)

CONTESTANTS: tuple[Contestant, ...] = (
    OURS,
    DRAMATIQ,
    DRAMATIQ_BEST,
    _node("bullmq", "BullMQ", NOTHING, 30_000, bulk="addBulk"),
    _python("huey", "Huey", NOTHING, 20_000),
    _python("taskiq", "taskiq", NOTHING, 12_000),
    _python("celery", "Celery", NOTHING, 4_000),
    _python("rq", "RQ", NOTHING, 1_000, single=True, bulk="enqueue_many"),
    _node(
        "graphile-batch",
        "graphile-worker, batches",
        ROWS,
        40_000,
        postgres=True,
        bulk="addJobs",
        left=GRAPHILE,
        variables={"BENCH_VARIANT": "batch"},
    ),
    _node("graphile", "graphile-worker", ROWS, 6_000, postgres=True, bulk="addJobs", left=GRAPHILE),
    _node("pgboss", "pg-boss, tuned", ROWS, 6_000, postgres=True, bulk="insert", left=PGBOSS),
    _python("procrastinate", "Procrastinate", ROWS, 1_000, postgres=True, bulk="batch_defer", left=PROCRASTINATE),
)
