"""`make clocks`: schedulers are killed and frozen while many schedules fire each second; no fire is lost or doubled.

Half of the strikes come right after a full second, when a scheduler is likely to be in the middle of its transaction;
at least one is left awake and has to do the work. Every schedule makes up for each missed fire and lets its runs stand
side by side, so each planned second has to end as one slot with one run of its own, and the slots say how late it was.
"""

import math
import os
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, NullPool, create_engine, text

from models import migrations
from sandbox.fleet import ROOT
from sandbox.services import Services
from tests.copies import Copy
from workers import settings, slots

#: Seconds: Postgres ends the transaction of a frozen scheduler after five, and the next look comes within one. Another
#: one may be frozen with the same locks right then.
BOUND = 2 * (slots.IDLE + 1.0)
#: Seconds that one is frozen: some of them longer than its locks may last.
FROZEN = (0.5, 25.0)
#: Seconds between two strikes.
PAUSE = (0.2, 2.0)
#: Seconds for the last fires to be recorded.
SETTLED = 60.0

SCHEDULES = text("""
    INSERT INTO schedules (name, job, rule, zone, missed, overlap, next_fire_at)
    SELECT 'tick-' || i, 'search.index_changes', 'every 1 s', 'UTC', 'each 1000', 'allow',
        date_trunc('second', now()) + interval '1 s'
    FROM generate_series(1, :many) AS i
""")
STOP = text("""
    UPDATE schedules SET next_fire_at = NULL WHERE job IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM schedules WHERE job IS NOT NULL AND next_fire_at < now() - interval '1 s')
""")
GOING = text("SELECT count(*) FROM schedules WHERE job IS NOT NULL AND next_fire_at IS NOT NULL")
ALIVE = text("SELECT count(*) FROM processes WHERE kind = 'scheduler' AND stopped_at IS NULL")
#: What must not be, each as the rows that break it.
BROKEN = {
    "a second without a slot": """
        SELECT schedule, fire_at FROM (
            SELECT schedule, fire_at, lag(fire_at) OVER (PARTITION BY schedule ORDER BY fire_at) AS before
            FROM slots WHERE schedule LIKE 'tick-%'
        ) AS s WHERE fire_at - before <> interval '1 s'""",
    "a slot that is no fire with a run": """
        SELECT schedule, fire_at FROM slots
        WHERE schedule LIKE 'tick-%' AND (outcome NOT IN ('ran', 'caught_up') OR run_id IS NULL)""",
    "a fire with two runs, or a run without its slot": """
        SELECT r.schedule, r.slot_at FROM runs r
        LEFT JOIN slots s ON s.run_id = r.id AND s.schedule = r.schedule AND s.fire_at = r.slot_at
        WHERE r.schedule LIKE 'tick-%' AND s.id IS NULL""",
    "two slots that share a run": """
        SELECT run_id, min(fire_at) FROM slots WHERE schedule LIKE 'tick-%' GROUP BY run_id HAVING count(*) > 1""",
}
LATENESS = text("""
    SELECT count(*), percentile_cont(ARRAY[0.5, 0.9, 0.99, 0.999, 1]) WITHIN GROUP (ORDER BY late)
    FROM (SELECT extract(epoch FROM recorded_at - fire_at)::float8 AS late FROM slots WHERE schedule LIKE 'tick-%') AS s
""")


@dataclass
class Outcome:
    """What came of it."""

    struck: Counter[str]
    slots: int
    #: Seconds: p50, p90, p99, p99.9 and the longest.
    lateness: Sequence[float]
    broken: list[str] = field(default_factory=list)


class Clocks:
    """The schedulers, struck one at a time.

    Args:
        folder: Holds their logs.
        many: How many schedulers.
        seed: Of whom to strike, when and how.
    """

    def __init__(self, folder: Path, many: int, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._random = random.Random(seed)
        self._members = [self._launch(number) for number in range(many)]
        #: Of those that are frozen.
        self._thawed_at: dict[int, float] = {}
        self.struck: Counter[str] = Counter()

    def _launch(self, number: int) -> Copy:
        return Copy("scheduler", (), out=self._folder / f"scheduler-{number}.log", environment=dict(os.environ))

    def strike_for(self, seconds: float) -> None:
        """Kill and freeze for so long; at least one is left awake."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self._random.uniform(*PAUSE))
            if self._random.random() < 0.5:
                time.sleep(1 - time.time() % 1 + self._random.uniform(0, 0.03))
            self._thaw(time.monotonic())
            self._strike(self._random.choice([n for n in range(len(self._members)) if n not in self._thawed_at]))

    def _strike(self, number: int) -> None:
        if self._random.random() < 0.5 and len(self._thawed_at) < len(self._members) - 1:
            self._members[number].signal(signal.SIGSTOP)
            self._thawed_at[number] = time.monotonic() + self._random.uniform(*FROZEN)
            self.struck["frozen"] += 1
        else:
            self._members[number].kill()
            self._members[number] = self._launch(number)
            self.struck["killed"] += 1

    def _thaw(self, now: float) -> None:
        for number in [number for number, at in self._thawed_at.items() if at <= now]:
            self._members[number].signal(signal.SIGCONT)
            del self._thawed_at[number]

    def thaw_all(self) -> None:
        """Let everybody go on."""
        self._thaw(math.inf)

    def stop(self) -> None:
        """Ask them to stop."""
        self.thaw_all()
        for member in self._members:
            member.stop(15)

    def cut_off(self) -> int:
        """Return how many transactions Postgres ended under a frozen scheduler."""
        told = [path.read_text(errors="replace") for path in self._folder.glob("*.log")]
        return sum(log.count("idle-in-transaction timeout") for log in told)


def conduct(services: Services, *, seconds: float, schedulers: int, schedules: int, seed: int) -> Outcome:
    """Go through one trial on running servers."""
    os.environ.update(services.environment())
    engine = create_engine(settings.load(os.environ).core.sqlalchemy_url, poolclass=NullPool)
    with engine.begin() as connection:
        migrations.upgrade(connection)
    clocks = Clocks(services.folder / "processes", schedulers, seed)
    try:
        _until(engine, ALIVE, schedulers)
        with engine.begin() as connection:
            connection.execute(SCHEDULES, {"many": schedules})
        clocks.strike_for(seconds)
        clocks.thaw_all()
        _until(engine, GOING, 0, doing=STOP)
    finally:
        clocks.stop()
    clocks.struck["cut off in the middle of a transaction"] = clocks.cut_off()
    return _judge(engine, clocks.struck)


def _until(engine: Engine, asked: Any, wanted: int, doing: Any = None) -> None:
    deadline = time.monotonic() + SETTLED
    while True:
        with engine.begin() as connection:
            if doing is not None:
                connection.execute(doing)
            if connection.execute(asked).scalar_one() == wanted:
                return
        assert time.monotonic() < deadline, f"not within {SETTLED:g} s: {asked}"
        time.sleep(0.05)


def _judge(engine: Engine, struck: Counter[str]) -> Outcome:
    with engine.connect() as connection:
        slots, lateness = connection.execute(LATENESS).one()
        found = {what: connection.execute(text(query)).all() for what, query in BROKEN.items()}
    broken = [f"{what}: {rows[0]} and {len(rows) - 1} more" for what, rows in found.items() if rows]
    if lateness[-1] > BOUND:
        broken.append(f"a fire was recorded {lateness[-1]:.1f} s late, and {BOUND:g} s is the bound")
    return Outcome(struck, slots, lateness, broken)


def main(
    minutes: Annotated[float, typer.Option(min=0, help="Minutes of faults.")] = 10.0,
    schedulers: Annotated[int, typer.Option(min=2, max=9)] = 3,
    schedules: Annotated[int, typer.Option(min=1, max=1000, help="Schedules that fire each second.")] = 50,
    seed: Annotated[int | None, typer.Option(help="Seed of the faults; a new one by default.")] = None,
) -> None:
    """Exit with 0 if every planned second has exactly one slot with one run, none later than the bound."""
    drawn = secrets.randbelow(1_000_000) if seed is None else seed
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"clocks with seed {drawn}: {schedulers} schedulers, {schedules} schedules, {minutes:g} minutes")
    with Services.start("clocks", ROOT / ".sandbox") as services:
        plan = {"schedulers": schedulers, "schedules": schedules, "seed": drawn}
        outcome = conduct(services, seconds=minutes * 60, **plan)
    table = Table("", "", show_header=False)
    for what, figure in outcome.struck.items():
        table.add_row(f"schedulers {what}", str(figure))
    table.add_row("slots, each with its own run", f"{outcome.slots:,}")
    for name, seconds in zip(("p50", "p90", "p99", "p99.9", "longest"), outcome.lateness, strict=True):
        table.add_row(f"recorded late, {name}", f"{seconds:.3f} s")
    console.print(table)
    for violation in outcome.broken:
        console.print(f"VIOLATED: {violation}", style="red", highlight=False)
    if outcome.broken:
        raise typer.Exit(1)
    console.print("Every second has exactly one slot, no fire came twice.", style="green")


if __name__ == "__main__":
    typer.run(main)
