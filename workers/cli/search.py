"""The search index: how it stands, and the jobs that build, check, repair and roll it back."""

from typing import TYPE_CHECKING

import typer
from rich.text import Text

from workers.cli.opening import runtime
from workers.cli.options import AsJson, By
from workers.cli.performing import NoWait, perform
from workers.cli.run import Timeout
from workers.cli.tables import console, print_json, printable, show
from workers.moments import span, when

if TYPE_CHECKING:
    from jobs.search import SearchStatus

app = typer.Typer(name="search", help="Look at, rebuild, verify, repair and roll back the search index.")

COLUMNS = {
    "index": lambda row: row.index,
    "state": lambda row: row.state,
    "on the server": lambda row: row.exists,
    "mapping current": lambda row: row.mapping_current,
    "created": lambda row: row.created_at,
    "promoted": lambda row: row.promoted_at,
}
#: What a verification counts that nothing explains.
DRIFT = ("missing", "stale", "orphans")


@app.command()
def status(*, as_json: AsJson = False) -> None:
    """Say what searches see, how far behind it is, and what was refused; exit 1 if searches do not work."""
    found = _look()
    if as_json:
        print_json(found)
    else:
        for line in _sentences(found):
            console().print(Text(printable(line)))
        show(found.generations, COLUMNS, as_json=False, empty="there is no index yet: `headrace search rebuild`")
    if not found.intact:
        raise typer.Exit(1)


@app.command()
def rebuild(by: By, timeout: Timeout = None, *, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Build a new index from the database beside the live one and swap them once they are equal."""
    perform("search.rebuild", {}, by, timeout, no_wait=no_wait, as_json=as_json)


@app.command()
def verify(by: By, timeout: Timeout = None, *, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Count in how many products the index and the database differ; exit 1 if in any."""
    result = perform("search.verify", {}, by, timeout, no_wait=no_wait, as_json=as_json)
    if drift := sum(int(result.get(kind) or 0) for kind in DRIFT):
        typer.echo(f"{drift:,} products differ: `headrace search repair` delivers them again", err=True)
        raise typer.Exit(1)


@app.command()
def repair(by: By, timeout: Timeout = None, *, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Verify, and deliver again what differs."""
    perform("search.verify", {"repair": "true"}, by, timeout, no_wait=no_wait, as_json=as_json)


@app.command()
def rollback(by: By, timeout: Timeout = None, *, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Point searches back at the previous index."""
    perform("search.rollback", {}, by, timeout, no_wait=no_wait, as_json=as_json)


def _look() -> "SearchStatus":
    from integrations.elasticsearch import Elasticsearch  # noqa: PLC0415 - every command would pay for its slow import
    from jobs.search import status  # noqa: PLC0415 - the same

    with runtime() as held, held.engine.connect() as connection:
        return status(connection, held.use(Elasticsearch))


def _sentences(found: "SearchStatus") -> list[str]:
    reached = "nobody can tell what searches see" if found.intact is None else "searches do not reach the live index"
    lines = [f"{found.away}" if found.away else ""]
    lines.append("searches reach the live index" if found.intact else f"{reached}: `headrace search rebuild`")
    documents = "an unknown number of" if found.documents is None else f"{found.documents:,}"
    lines.append(f"{documents} documents for {found.products:,} products")
    oldest = f", the oldest for {span(found.oldest_mark_age)}" if found.oldest_mark_age is not None else ""
    lines.append(f"{found.pending_marks:,} changes wait to be sent{oldest}")
    lines.append(f"{found.rejected:,} products were refused")
    lines += [f"  product {number}: {reason}" for number, reason in found.reject_reasons.items()]
    counts = ", ".join(f"{name} {count}" for name, count in (found.verified or {}).items())
    lines.append(f"last verified {when(found.verified_at)}: {counts}" if found.verified_at else "never verified yet")
    return [line for line in lines if line]
