"""What a run costs beside history: ten thousand, one million and five million ended runs, and a million for later.

Four databases are filled with one statement each, attempts too, and drained in turn. An engine whose statements look
at rows that are done or not due yet gets slower with every day that it is in use.
"""

from dataclasses import replace

from tests.benchmarks.contestants import OURS, Ours
from tests.benchmarks.plan import Plan
from tests.benchmarks.report import Table, figure, times
from tests.benchmarks.rounds import Figures, ratio, take_turns

TITLE = "Draining no-op runs beside history"
CONCURRENCY = 16
JOBS = 30_000

#: Ended runs, and runs scheduled for later.
SIZES = {
    "10 thousand ended": (10_000, 0),
    "1 million ended": (1_000_000, 0),
    "5 million ended": (5_000_000, 0),
    "1 million for later": (10_000, 1_000_000),
}

ENDED = """
    INSERT INTO runs
        (job, queue, args, max_attempts, state, attempt, process_id, due_at, started_at, finished_at, created_at)
    SELECT 'headrace.nothing', 'bench', '{{}}', 3, 'succeeded', 1, 0, at, at, at, at
    FROM (SELECT now() - n * interval '0.5 second' AS at FROM generate_series({count}, 1, -1) AS n) AS past
"""
ATTEMPTS = """
    INSERT INTO attempts (run_id, number, process_id, started_at, finished_at, outcome)
    SELECT id, 1, 0, started_at, finished_at, 'succeeded' FROM runs WHERE state = 'succeeded' ORDER BY id
"""
LATER = """
    INSERT INTO runs (job, queue, args, max_attempts, due_at)
    SELECT 'headrace.nothing', 'bench', '{{}}', 3, now() + interval '1 day' + n * interval '0.1 second'
    FROM generate_series(1, {count}) AS n
"""


def measure(plan: Plan) -> Table:
    """Fill the databases, then drain the same number of runs in each, in turn."""
    engines = [_filled(plan, place, name) for place, name in enumerate(SIZES)]

    def one(engine: Ours) -> Figures:
        drained = engine.drain(plan.ground, "nothing", plan.scaled(JOBS), CONCURRENCY)
        return {"per second": drained.per_second, "cpu": drained.cpu * 1000}

    everybody = take_turns(engines, one, plan.repeats, plan.say)
    base = everybody[0].median("per second")
    table = Table(TITLE, ["", "runs/s", "time for a run, to the first line", "our µs of CPU a run"])
    for measured in everybody:
        rate = measured.median("per second")
        cost = times(ratio(base, rate))
        table.add(
            measured.contestant.label, figure(rate, failure=measured.failure), cost, figure(measured.median("cpu"))
        )
    for engine in engines:
        plan.ground.drop(engine.name)
    return table


def _filled(plan: Plan, place: int, label: str) -> Ours:
    ended, later = (plan.scaled(count) if count else 0 for count in SIZES[label])
    engine = replace(OURS, name=f"history{place}", label=label, number=place + 1)
    plan.say(f"filling: {label}")
    engine.clean(plan.ground)
    # The keys between attempts and runs hold by construction: checking five million of them would take minutes.
    for statement in (
        "SET session_replication_role = replica;" + part for part in (ENDED.format(count=ended), ATTEMPTS)
    ):
        plan.ground.execute(engine.name, statement)
    if later:
        plan.ground.execute(engine.name, LATER.format(count=later))
    plan.ground.settle(engine.name)
    return engine
