"""Stock that people counted and gave us in a file goes through the same ledger and quarantine as an upstream's."""

import json
from collections.abc import Iterator
from itertools import count

from sqlalchemy import delete, func, text, update
from sqlalchemy.orm import Session

from integrations import Rejected
from jobs import Cancel, Context, RowId, Unique, _stock, _stock_csv, _stock_files, job
from jobs._stock_csv import BadFile, Row
from models import FILE, StockFile, StockFilePart

#: Seconds that the largest file may take.
LONG = 7_200

# The line that was reached before is the fence: of two that write the same page, one finds it moved.
REACHED = text("""
    UPDATE stock_files SET lines = :to, run_id = :run_id, counts = CAST(:counts AS jsonb)
    WHERE id = :id AND lines = :from RETURNING id
""")


@job(queue="warehouse", max_attempts=10, time_limit=LONG, unique=Unique(by=("file_id",), during="unfinished"))
def stock(context: Context, *, file_id: RowId) -> dict[str, int]:
    """Write the rows of a file of counted stock that are not written yet."""
    with context.transaction() as session:
        file = session.get(StockFile, file_id)
    if file is None:
        raise Cancel(f"file {file_id} is no longer kept: give it again")
    if file.finished_at is not None:
        return dict(file.counts)
    counts = {name: int(file.counts.get(name, 0)) for name in _stock_files.COUNTS}
    reached = file.lines
    for page in _stock_files.pages(_rows_behind(context, file)):
        context.check()
        counts = _write(context, file, page, reached, counts)
        reached = page[-1].line
        context.progress(done=counts["seen"], note=f"{file.name}: line {reached}")
    _finish(context, file_id)
    return counts


def _rows_behind(context: Context, file: StockFile) -> Iterator[Row]:
    """Yield the rows of a file that no page has reached."""
    try:
        yield from (row for row in _stock_csv.read(_pieces(context, file.id)) if row.line > file.lines)
    except BadFile as error:
        raise Rejected(f"{file.name}: {error}", upstream=FILE, status=0, code="bad_file") from None


def _write(context: Context, file: StockFile, page: list[Row], reached: int, so_far: dict[str, int]) -> dict[str, int]:
    def attempt(session: Session) -> dict[str, int]:
        met = _stock_files.write(session, page, file.counted_at, context.run_id)
        counts = {name: so_far[name] + met[name] for name in met}
        values = {"id": file.id, "from": reached, "to": page[-1].line, "run_id": context.run_id}
        if session.execute(REACHED, values | {"counts": json.dumps(counts)}).scalar() is None:
            raise Cancel(f"another run goes on with file {file.id} where this one was: nothing is lost")
        return counts

    return _stock.twice(context, attempt)


def _pieces(context: Context, file_id: int) -> Iterator[bytes]:
    for number in count():
        with context.transaction() as session:
            part = session.get(StockFilePart, (file_id, number))
        if part is None:
            return
        yield part.content


def _finish(context: Context, file_id: int) -> None:
    """Let go of the pieces; what was in them stays known by its digest."""
    with context.transaction() as session:
        session.execute(update(StockFile).where(StockFile.id == file_id).values(finished_at=func.now()))
        session.execute(delete(StockFilePart).where(StockFilePart.file_id == file_id))
