"""How many no-op runs a worker completes with full history, beside bare Dramatiq on the same Valkey and machine.

Both run one process with eight threads. Bare Dramatiq acknowledges to Valkey and remembers nothing; ours claims and
finishes every run in Postgres, with an attempt row each. Rounds alternate, the median of three is shown.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from sqlalchemy import text

from sandbox.fleet import ROOT
from sandbox.stage import Stage

ROUNDS = 3
#: Seconds between two looks at what is left.
LOOK = 0.05


def measure(runs: int) -> dict[str, str]:
    """Drain the same number of no-ops three times each way."""
    with Stage.start("bench", products=1, stores=1) as stage:
        _prepare(stage)
        ours, bare = [], []
        for _ in range(ROUNDS):
            bare.append(runs / _bare(stage, runs))
            ours.append(runs / _ours(stage, runs))
        mine, theirs = statistics.median(ours), statistics.median(bare)
        return {
            "runs": f"{runs:,}",
            "Headrace, runs per second": f"{mine:,.0f}",
            "bare Dramatiq, messages per second": f"{theirs:,.0f}",
            "ratio to bare Dramatiq": f"{mine / theirs:.2f}",
        }


def _prepare(stage: Stage) -> None:
    with stage.engine.begin() as connection:
        connection.execute(text("INSERT INTO queues (name) VALUES ('trial') ON CONFLICT DO NOTHING"))
    stage.fleet.start("relay")


def _ours(stage: Stage, runs: int) -> float:
    with stage.engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO runs (job, queue, args, max_attempts)
                SELECT 'trial_jobs.nothing', 'trial', '{}', 3 FROM generate_series(1, :runs)
            """),
            {"runs": runs},
        )
    stage.wait_for(
        "the backlog on the broker",
        lambda: stage.number("SELECT count(*) FROM runs WHERE state = 'queued'") >= min(runs, 10_000),
        seconds=60,
    )
    left = "SELECT count(*) FROM runs WHERE state <> 'succeeded'"
    with _worker(stage, "tests.workers.trial_worker", "--queues", "trial", "--threads", "8"):
        return _drained(lambda: stage.number(left), runs)


def _bare(stage: Stage, runs: int) -> float:
    url = stage.services.valkey.url
    broker = RedisBroker(url=url, middleware=[])  # type: ignore[no-untyped-call]
    for _ in range(runs):
        broker.enqueue(dramatiq.Message("bare", "nothing", (), {}, {}))
    with redis.Redis.from_url(url) as client, _worker(stage, "tests.benchmarks.bare_worker", url):
        return _drained(lambda: int(client.hlen("dramatiq:bare.msgs")), runs)


def _drained(left: Callable[[], int], runs: int) -> float:
    """Return the seconds that all runs take, counted from the first that are seen done."""
    while (first := left()) == runs:
        time.sleep(LOOK)
    started = time.monotonic()
    while left():
        time.sleep(LOOK)
    return (time.monotonic() - started) * runs / first


@contextmanager
def _worker(stage: Stage, module: str, *arguments: str) -> Iterator[None]:
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", **stage.environment}
    with (stage.fleet.folder / f"{module}.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, env=environment, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()
