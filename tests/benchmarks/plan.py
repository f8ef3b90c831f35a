"""What one run of the benchmarks is to do: who takes part, how often, how much of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.benchmarks.contestants import Contestant
from tests.benchmarks.ground import Ground

#: A quick run has one tenth of the work: enough to see that everything runs, not enough to quote.
QUICK = 10


@dataclass(frozen=True)
class Plan:
    """One run."""

    ground: Ground
    contestants: Sequence[Contestant]
    repeats: int
    quick: bool
    say: Callable[[str], None]

    def jobs(self, contestant: Contestant) -> int:
        """Return how many jobs a round of this contestant has."""
        return self.scaled(contestant.jobs)

    def scaled(self, count: int) -> int:
        """Return a number of jobs, or what a quick run does of them."""
        return max(100, count // QUICK) if self.quick else count
