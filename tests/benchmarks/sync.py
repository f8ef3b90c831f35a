"""How fast the whole catalogue streams into Postgres, and in how much memory.

The stand-in warehouse serves it in pages of 500 over HTTP; a real worker process runs `warehouse.sync`. Beside it, as
the bound, the same level rows are copied by COPY into a table with the same keys and nothing else.
"""

import io
import time

import psutil
from sqlalchemy import text

from sandbox.stage import Stage
from tests.benchmarks.plan import Plan
from tests.benchmarks.report import Table

LEVELS = "SELECT source_id, product_id, location_id, on_hand, source_version, source_updated_at FROM stock_levels"


TITLE = "Sync of the catalogue"
PRODUCTS, STORES = 92_331, 20


def measure(plan: Plan) -> Table:
    """Sync from empty, on servers of its own."""
    table = Table(TITLE, ["", "figure"])
    for name, figure in _figures(plan.scaled(PRODUCTS), STORES).items():
        table.add(name, figure)
    return table


def _figures(products: int, stores: int) -> dict[str, str]:
    with Stage.start("bench", products=products, stores=stores) as stage:
        stage.fleet.start("relay")
        worker = stage.fleet.start("worker", extra="--queues warehouse")[0]
        process = psutil.Process(stage.fleet.members[worker].pid)
        first, peak = _run(stage, process)
        rows = stage.number("SELECT (SELECT count(*) FROM products) + (SELECT count(*) FROM stock_levels)")
        copied = _copy(stage)
        return {
            "products": f"{stage.number('SELECT count(*) FROM products'):,}",
            "stock levels": f"{stage.number('SELECT count(*) FROM stock_levels'):,}",
            "seconds": f"{first:.1f}",
            "rows per second": f"{rows / first:,.0f}",
            "bare COPY, rows per second": f"{copied:,.0f}",
            "ratio to bare COPY": f"{rows / first / copied:.3f}",
            "peak memory of the worker": f"{peak / 2**20:.0f} MiB",
        }


def _run(stage: Stage, process: psutil.Process) -> tuple[float, int]:
    run_id = stage.headrace("run", "warehouse.sync").stdout.strip()
    peak = 0
    started = time.monotonic()
    state = "SELECT count(*) FROM runs WHERE id = :id AND state IN ('succeeded', 'dead')"
    while not stage.number(state, id=int(run_id)):
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.2)
    seconds = time.monotonic() - started
    if not stage.number("SELECT count(*) FROM runs WHERE id = :id AND state = 'succeeded'", id=int(run_id)):
        raise RuntimeError("the sync died: headrace runs show tells why")
    return seconds, peak


def _copy(stage: Stage) -> float:
    """Return the rows per second of copying the same levels into a table with the same unique keys."""
    with stage.engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE copied AS {LEVELS} WITH NO DATA"))
        connection.execute(text("CREATE UNIQUE INDEX ON copied (source_id)"))
        connection.execute(text("CREATE UNIQUE INDEX ON copied (product_id, location_id)"))
        cursor = connection.connection.driver_connection.cursor()  # type: ignore[union-attr]
        held = io.BytesIO()
        with cursor.copy(f"COPY ({LEVELS}) TO STDOUT") as out:
            for block in out:
                held.write(block)
        started = time.monotonic()
        with cursor.copy("COPY copied FROM STDIN") as copy:
            copy.write(held.getbuffer())
        seconds = time.monotonic() - started
        return int(connection.execute(text("SELECT count(*) FROM copied")).scalar_one()) / seconds
