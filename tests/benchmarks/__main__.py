"""`make bench`: measurements of the whole, each beside something that bounds it, in one run.

    sync    the whole catalogue at 20 stores, from the stand-in warehouse into Postgres by a real worker: rows per
            second beside a bare COPY of the same rows, and the worker's peak memory
    jobs    no-op runs with full history beside bare Dramatiq on the same Valkey

Figures of different machines or runs do not compare; the ratios within one run do.
"""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.benchmarks import engine, sync

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    only: Annotated[str, typer.Argument(help="`sync` or `jobs`; both when empty.")] = "",
    products: Annotated[int, typer.Option(min=1, max=92_331)] = 92_331,
    stores: Annotated[int, typer.Option(min=1, max=20)] = 20,
    runs: Annotated[int, typer.Option(min=100, help="No-op runs of the `jobs` measurement.")] = 20_000,
) -> None:
    """Measure and print tables."""
    if only in {"", "jobs"}:
        _show("no-op runs", engine.measure(runs))
    if only in {"", "sync"}:
        _show("sync of the catalogue", sync.measure(products, stores))


def _show(title: str, figures: dict[str, str]) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, figure in figures.items():
        table.add_row(name, figure)
    Console().print(table)


if __name__ == "__main__":
    app()
