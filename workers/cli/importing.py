"""Importing: what people counted and keep in a file becomes stock of ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.orm import Session

from workers import actions
from workers.cli.opening import runtime
from workers.cli.options import AsJson, By, DryRun
from workers.cli.run import Timeout
from workers.cli.tables import print_json
from workers.cli.waiting import follow
from workers.moments import exactly

app = typer.Typer(name="import", help="Take in stock that people counted.")

File = Annotated[
    Path,
    typer.Argument(
        exists=True, dir_okay=False, readable=True, help="Table with the columns sku, location and on_hand.",
        show_default=False,
    ),
]  # fmt: skip


@app.callback()
def _noun() -> None:
    """Keep `import stock` two words while it is alone."""


@app.command()
def stock(
    file: File,
    by: By,
    *,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until all of it is written.")] = True,
    timeout: Timeout = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Set stock levels to the figures of a CSV file with the columns sku, location and on_hand.

    The first line names the columns; others are ignored. A location is its id, or its name. Commas, semicolons or tabs,
    UTF-8 or UTF-16. Rows that cannot be placed wait in quarantine: `headrace streams show file/stock_levels`. A file
    that was given before changes nothing; one that broke off goes on.
    """

    def pieces() -> Iterator[bytes]:
        with file.open("rb") as opened:
            while piece := opened.read(actions.PIECE):
                yield piece

    with runtime() as held:
        if dry_run:
            with Session(held.engine) as session:
                print_json(actions.try_import(session, pieces) | {"dry_run": True})
            return
        taken = actions.import_stock(held.engine, file.name, pieces, by=by)
        if taken.run_id is None:
            _tell_known(taken, as_json=as_json)
        elif wait:
            follow(held.engine, taken.run_id, timeout=timeout, as_json=as_json)
        elif as_json:
            print_json({"id": taken.run_id, "file": taken.file_id})
        else:
            typer.echo(str(taken.run_id))


def _tell_known(taken: actions.Imported, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": None, "file": taken.file_id, "finished_at": taken.finished_at})
    elif taken.finished_at is not None:
        typer.echo(f"all of this file was written at {exactly(taken.finished_at)}: nothing was changed")
