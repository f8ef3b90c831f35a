"""How many no-op runs per second a full queue is drained at: what a run costs when the work itself costs nothing."""

from tests.benchmarks.contestants import DRAMATIQ, Contestant
from tests.benchmarks.plan import Plan
from tests.benchmarks.report import Table, figure, times
from tests.benchmarks.rounds import Figures, ratio, take_turns

TITLE = "Draining no-op runs, 16 at a time in two processes"
CONCURRENCY = 16


def measure(plan: Plan) -> Table:
    """Drain everybody's queue in turn."""

    def one(contestant: Contestant) -> Figures:
        drained = contestant.drain(plan.ground, "nothing", plan.jobs(contestant), CONCURRENCY)
        return {"per second": drained.per_second, "cpu": drained.cpu * 1000}

    everybody = take_turns(plan.contestants, one, plan.repeats, plan.say)
    medians = {measured.contestant.name: measured.median("per second") for measured in everybody}
    table = Table(TITLE, ["", "runs/s", "to Dramatiq", "ours to it", "worker µs of CPU a run", "keeps"])
    for measured in everybody:
        name, rate = measured.contestant.name, measured.median("per second")
        table.add(
            measured.contestant.label,
            figure(rate, failure=measured.failure),
            times(ratio(rate, medians.get(DRAMATIQ.name))),
            times(ratio(medians.get("headrace"), rate)) if name != "headrace" else "",
            figure(measured.median("cpu")),
            measured.contestant.keeps,
        )
    return table
