"""How long a job takes from its enqueue to its start when there is room: 200 a second, 16 at a time.

Each enqueue is a transaction of its own. The clock starts before the call, so what the enqueue itself takes counts, for
ours the commit on disk; the second pair of columns starts when the call has returned.
"""

import statistics

from tests.benchmarks.contestants import Contestant
from tests.benchmarks.plan import Plan
from tests.benchmarks.report import Table, figure
from tests.benchmarks.rounds import Figures, take_turns

TITLE = "From enqueue to start at 200 jobs a second, in milliseconds"
CONCURRENCY = 16
RATE, SECONDS = 200, 6


def measure(plan: Plan) -> Table:
    """Pace jobs for a few seconds, for everybody in turn."""

    def one(contestant: Contestant) -> Figures:
        both = contestant.latencies(plan.ground, plan.scaled(RATE * SECONDS), RATE, CONCURRENCY)
        called, returned = zip(*both, strict=True)
        return {**_percentiles("call", called), **_percentiles("return", returned)}

    everybody = take_turns(plan.contestants, one, plan.repeats, plan.say)
    table = Table(TITLE, ["", "call, p50", "call, p99", "return, p50", "return, p99"])
    for measured in everybody:
        names = ["call p50", "call p99", "return p50", "return p99"]
        cells = [figure(measured.median(name), digits=2) for name in names]
        table.add(measured.contestant.label, *([measured.failure, "", "", ""] if measured.failure else cells))
    return table


def _percentiles(name: str, seconds: tuple[float, ...]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"{name} p50": cuts[49] * 1000, f"{name} p99": cuts[98] * 1000}
