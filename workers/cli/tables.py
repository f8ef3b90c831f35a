"""Listings: a table for people, JSON for programs.

Colours appear on terminals only. A table that goes into a file or a pipe is as wide as it needs to be, so nothing is
cut. Whatever came from outside is shown without control characters: a webhook cannot rewrite somebody's terminal.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from workers.census import as_json as plain
from workers.moments import when

#: Columns of a page that is no terminal.
_WIDE = 400
_COLOURS = {
    "succeeded": "green",
    "dead": "bold red",
    "running": "cyan",
    "queued": "blue",
    "retrying": "yellow",
    "cancelled": "dim",
}

Columns = Mapping[str, Callable[[Any], Any]]


def console() -> Console:
    """Return standard output."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDE)


def print_json(value: Any) -> None:
    """Print a view, or a list of them, as JSON."""
    typer.echo(json.dumps(plain(value), ensure_ascii=False, indent=2, default=str))


def show(rows: Sequence[Any], columns: Columns, *, as_json: bool, empty: str) -> None:
    """Print a listing.

    Args:
        rows: Views or mappings.
        columns: Title of each column and how to read it off a row.
        as_json: Print the rows as a JSON array instead.
        empty: What to say when there is nothing, and what to do about it.
    """
    if as_json:
        print_json(list(rows))
    elif not rows:
        typer.echo(empty)
    else:
        console().print(_table(rows, columns))


def cell(value: Any) -> Text:
    """Return a value as people read it."""
    match value:
        case None | "":
            return Text("-", style="dim")
        case bool():
            return Text("yes" if value else "no")
        case int():
            return Text(f"{value:,}", justify="right")
        case datetime():
            return Text(when(value))
        case list() | tuple():
            return cell(", ".join(str(item) for item in value))
    return Text(printable(str(value)), style=_COLOURS.get(str(value), ""))


def printable(text: str) -> str:
    """Return a text in one line without control characters."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _table(rows: Sequence[Any], columns: Columns) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in columns:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(cell(read(row)) for read in columns.values()))
    return table
