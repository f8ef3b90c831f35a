"""What was measured, for people: a table on the terminal, and the same in `docs/benchmarks.md` with the machine."""

import platform
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import psycopg
import redis
from rich.console import Console
from rich.table import Table as Drawn

from tests.benchmarks.ground import Ground

ABSENT = "-"


@dataclass
class Table:
    """One question's answer."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Add a row."""
        self.rows.append(list(cells))

    def draw(self, console: Console) -> None:
        """Show it on a terminal."""
        drawn = Drawn(title=self.title, title_justify="left")
        for place, name in enumerate(self.columns):
            drawn.add_column(name, justify="left" if place == 0 else "right", overflow="fold")
        for row in self.rows:
            drawn.add_row(*row)
        console.print(drawn)
        for note in self.notes:
            console.print(note)

    def markdown(self) -> str:
        """Return it as a table of a document."""
        ruler = ["---", *["---:" for _ in self.columns[1:]]]
        lines = ["| " + " | ".join(cells) + " |" for cells in [self.columns, ruler, *self.rows]]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])


def figure(value: float | None, *, digits: int = 0, failure: str | None = None) -> str:
    """Return a number as people read it, or why there is none."""
    if failure:
        return failure
    return ABSENT if value is None else f"{value:,.{digits}f}"


def times(ratio: float | None) -> str:
    """Return a ratio."""
    return ABSENT if ratio is None else f"{ratio:.2f}"


def keep(document: Path, section: str, table: Table, machine: str) -> None:
    """Replace the section of a question in the document, and what it says about the machine."""
    today = datetime.now(UTC).date()
    text = document.read_text()
    text = _replaced(text, section, f"{table.markdown()}\n\nMeasured on {today}.")
    document.write_text(_replaced(text, "machine", machine))


def _replaced(text: str, section: str, body: str) -> str:
    marks = f"<!-- {section} -->", f"<!-- end of {section} -->"
    pattern = re.compile(f"{marks[0]}\n.*?{marks[1]}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the document has no section {marks[0]} ... {marks[1]}")
    return pattern.sub(lambda _: f"{marks[0]}\n{body}\n{marks[1]}", text)


def machine(ground: Ground) -> str:
    """Describe what everything ran on, naming neither hosts nor paths."""
    memory = psutil.virtual_memory().total / 2**30
    with psycopg.connect(ground.services.postgres.url) as connection:
        postgres = connection.info.parameter_status("server_version")
    with redis.Redis.from_url(ground.redis_url()) as client:
        valkey = client.info("server")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("dramatiq", "psycopg", "SQLAlchemy", "redis"))
    return (
        f"{psutil.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()} on {platform.machine()}; Python "
        f"{platform.python_version()}, PostgreSQL {postgres} (fsync and synchronous_commit on), Valkey "
        f"{valkey.get('valkey_version', valkey['redis_version'])} (keeping nothing); {libraries}."
    )
