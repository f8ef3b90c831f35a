"""Jobs that wait 10 ms as for an answer from elsewhere, 32 at a time: how near to the ideal of 3,200 a second."""

from tests.benchmarks.contestants import Contestant
from tests.benchmarks.peers.contract import WAIT
from tests.benchmarks.plan import Plan
from tests.benchmarks.report import Table, figure, times
from tests.benchmarks.rounds import Figures, ratio, take_turns

TITLE = "Jobs of 10 ms, 32 at a time in two processes"
CONCURRENCY = 32
IDEAL = CONCURRENCY / WAIT
#: A round is at most so many jobs: two and a half seconds of the ideal.
MOST = 8_000


def measure(plan: Plan) -> Table:
    """Drain a queue of such jobs, for everybody in turn."""

    def one(contestant: Contestant) -> Figures:
        count = min(plan.jobs(contestant), plan.scaled(MOST))
        return {"per second": contestant.drain(plan.ground, "wait", count, CONCURRENCY).per_second}

    table = Table(TITLE, ["", "jobs/s", "of the ideal"])
    for measured in take_turns(plan.contestants, one, plan.repeats, plan.say):
        rate = measured.median("per second")
        table.add(measured.contestant.label, figure(rate, failure=measured.failure), times(ratio(rate, IDEAL)))
    return table
