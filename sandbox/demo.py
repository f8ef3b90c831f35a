"""`make demo`: the main job, end to end, on embedded servers and real data, and the proof that it adds up.

A warehouse's catalogue and stock are synced into Postgres and brought into the search index; then real sales are
replayed, each announced by a signed webhook, some twice, some out of order. At the end source, Postgres and index are
compared item by item. Any difference, any dead run, any webhook that was not accepted makes the demo fail.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from elasticsearch import Elasticsearch
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from sandbox.comparison import Comparison, compare
from sandbox.stage import NotSettled, Stage

#: Sale lines replayed and payments made, and seconds their webhooks may take.
SALES = 500
PAYMENTS = 10
DELIVERY_SECONDS = 90.0

screen = Console(stderr=True)


@dataclass
class Report:
    """What the demo did and whether it adds up."""

    products: int = 0
    stock_levels: int = 0
    movements: int = 0
    runs: dict[str, int] = field(default_factory=dict)
    webhooks: dict[str, int] = field(default_factory=dict)
    documents: int = 0
    mismatches: int = 0
    #: Seconds per phase, in order.
    phases: dict[str, float] = field(default_factory=dict)
    #: Why it failed; empty when everything adds up.
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase and show that it is under way."""
        started = time.monotonic()
        with screen.status(name):
            yield
        self.phases[name] = round(time.monotonic() - started, 2)
        screen.print(f"[green]✓[/green] {name} [dim]{self.phases[name]:.1f} s[/dim]")


def run(*, products: int, stores: int, as_json: bool, tamper: bool) -> int:
    """Perform the demo and print its summary.

    Args:
        products: Products of the stand-in warehouse.
        stores: Its stores.
        as_json: Print JSON on standard output instead of a table.
        tamper: Falsify one stock level behind the ledger's back before comparing, to show that it is noticed.

    Returns:
        The exit code: 0 when everything adds up.
    """
    report = Report()
    try:
        _perform(report, products=products, stores=stores, tamper=tamper)
    except (NotSettled, RuntimeError) as error:
        report.problems.append(str(error))
    if as_json:
        sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    else:
        _show(report)
    return 1 if report.problems else 0


def _perform(report: Report, *, products: int, stores: int, tamper: bool) -> None:
    with ExitStack() as running:
        with report.phase("start Postgres, Valkey, search, the warehouse and Stripe"):
            # Owned at once: an interrupt that comes between two phases must find somebody who cleans up.
            stage = running.enter_context(Stage.start("demo", products=products, stores=stores))
        with report.phase("start web, relay, scheduler and worker"):
            stage.start_all()
        with report.phase(f"sync {products:,} products at {stores} stores"):
            stage.headrace("run", "warehouse.sync", "--wait")
        with report.phase("bring them into the search index"):
            stage.settle(seconds=600)
        with report.phase(f"replay {SALES} sales and {PAYMENTS} payments as signed webhooks"):
            _webhooks(stage, report)
            stage.settle()
        if tamper:
            _tamper(stage)
        with report.phase("compare source, Postgres and index, item by item"):
            _judge(stage, report)


def _webhooks(stage: Stage, report: Report) -> None:
    admin = stage.upstreams.admin
    admin.faults(webhook_duplicate_rate=0.1, webhook_reorder_rate=0.1)
    told = [
        admin.sell(SALES, wait_s=DELIVERY_SECONDS),
        admin.stripe_events(PAYMENTS, wait_s=DELIVERY_SECONDS),
    ]
    if not all(answer["delivered"] for answer in told):
        report.problems.append(f"not every webhook was accepted within {DELIVERY_SECONDS:g} s")


def _tamper(stage: Stage) -> None:
    with stage.engine.begin() as connection:
        connection.execute(
            text("UPDATE stock_levels SET on_hand = on_hand + 1 WHERE id = (SELECT min(id) FROM stock_levels)")
        )
    stage.settle()
    screen.print("[yellow]![/yellow] one stock level was falsified on purpose")


def _judge(stage: Stage, report: Report) -> None:
    client = Elasticsearch(stage.services.search.url)
    with stage.engine.begin() as connection:
        found = compare(stage.upstreams.admin, connection, client)
        report.runs = {
            row[0]: row[1] for row in connection.execute(text("SELECT state, count(*) FROM runs GROUP BY 1"))
        }
    client.close()
    report.products, report.stock_levels, report.documents = found.products, found.stock_levels, found.documents
    report.movements = stage.number("SELECT count(*) FROM stock_movements")
    report.mismatches = found.mismatches
    report.webhooks = _sums(stage)
    report.problems += list(_problems(found, report))


def _sums(stage: Stage) -> dict[str, int]:
    senders = stage.upstreams.admin.stats()["webhooks"].values()
    return {
        "messages": sum(sender["created"] - sender["duplicate"] for sender in senders),
        "sent": sum(sender["sent"] for sender in senders),
        "accepted": stage.number("SELECT count(*) FROM events WHERE verdict = 'accepted'"),
        "ignored": stage.number("SELECT count(*) FROM events WHERE verdict = 'ignored'"),
        "duplicate": stage.number("SELECT sum(duplicates) FROM events"),
    }


def _problems(found: Comparison, report: Report) -> Iterator[str]:
    if found.mismatches:
        yield f"{found.mismatches} mismatches, for instance: {found.examples[0]}"
    if not (found.products and found.stock_levels and found.documents):
        yield "nothing was synced"
    if found.products != found.documents:
        yield f"{found.products} products, but {found.documents} documents in the index"
    if report.runs.get("dead"):
        yield f"{report.runs['dead']} runs are dead"
    kept = report.webhooks["accepted"] + report.webhooks["ignored"]
    if report.webhooks["messages"] != kept:
        yield f"{report.webhooks['messages']} webhooks were made, {kept} are kept"


def _show(report: Report) -> None:
    table = Table(title="Headrace, end to end", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in _rows(report):
        table.add_row(name, value)
    Console().print(table)
    for problem in report.problems:
        screen.print(f"[red]✗[/red] {problem}")
    if not report.problems:
        screen.print("[green]Everything adds up.[/green] `make up` shows it live.")


def _rows(report: Report) -> Iterator[tuple[str, str]]:
    yield "products", f"{report.products:,}"
    yield "stock levels", f"{report.stock_levels:,}"
    yield "movements", f"{report.movements:,}"
    yield "documents in the index", f"{report.documents:,}"
    for group, counts in (("runs", report.runs), ("webhooks", report.webhooks)):
        for name, count in counts.items():
            yield f"{group} {name}", f"{count:,}"
    for name, seconds in report.phases.items():
        yield f"[dim]{name}[/dim]", f"[dim]{seconds:.1f} s[/dim]"
    colour: Any = "red" if report.mismatches else "green"
    yield "mismatches", f"[{colour}]{report.mismatches}[/{colour}]"
