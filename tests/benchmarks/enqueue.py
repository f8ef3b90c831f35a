"""How many jobs per second can be enqueued by one thread: many at once where there is such a way, and one by one.

Ours is written and durable when the call returns; the peers that only speak to Valkey keep nothing.
"""

from tests.benchmarks.contestants import DRAMATIQ, Contestant
from tests.benchmarks.plan import Plan
from tests.benchmarks.report import Table, figure, times
from tests.benchmarks.rounds import Figures, ratio, take_turns

TITLE = "Enqueueing, one thread"
MANY, SINGLE = 20_000, 2_000


def measure(plan: Plan) -> Table:
    """Enqueue in bulk and one by one, with nobody working."""

    def one(contestant: Contestant) -> Figures:
        figures = {}
        contestant.clean(plan.ground)
        figures["single"] = contestant.enqueue(plan.ground, "send", "nothing", plan.scaled(SINGLE))
        contestant.clean(plan.ground)
        figures["many"] = contestant.enqueue(plan.ground, "fill", "nothing", plan.scaled(MANY))
        return figures

    everybody = take_turns(plan.contestants, one, plan.repeats, plan.say)
    base = next((m.median("many") for m in everybody if m.contestant.name == DRAMATIQ.name), None)
    table = Table(TITLE, ["", "in bulk/s", "to Dramatiq's loop", "by", "one by one/s", "to Dramatiq"])
    for measured in everybody:
        many, single = measured.median("many"), measured.median("single")
        bulk = measured.contestant.bulk or "a loop"
        table.add(
            measured.contestant.label,
            figure(many, failure=measured.failure),
            times(ratio(many, base)),
            bulk,
            figure(single),
            times(ratio(single, base)),
        )
    return table
