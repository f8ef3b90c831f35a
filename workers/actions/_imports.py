"""Taking in a file of counted stock: judged whole before any of it counts, kept in pieces, then a run like any other.

The file is known by what is in it. The same one again finds its row: pieces that are kept are not kept twice, and a
file that was written already asks for no run. So an upload that broke off is simply given again.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobs._stock_csv import BadFile, read
from jobs._stock_files import COUNTS, judge, malformed, pages
from models import StockFile, StockFilePart
from workers.actions._asking import enqueue
from workers.actions._audit import Refused

#: Bytes of a piece.
PIECE = 262_144
#: A file with more malformed rows than both of these is another file than was meant.
MOST_MALFORMED = 20
MALFORMED_SHARE = 0.1

Pieces = Callable[[], Iterable[bytes]]
"""Opens the file at its beginning; it is read twice."""


@dataclass(frozen=True)
class Imported:
    """A file that was taken in: the run that writes it, or when all of it had been written."""

    file_id: int
    run_id: int | None
    finished_at: datetime | None


def look_at_file(pieces: Pieces) -> str:
    """Read a file once, from end to end, change nothing, and return its digest.

    Raises:
        Refused: It is no table of stock, has no row, or most of it is waste; the message names the line.
    """
    digest = hashlib.sha256()
    rows = 0
    problems: list[str] = []
    try:
        for rows, row in enumerate(read(_digested(pieces, digest)), start=1):
            problem = malformed(row)
            problems += [problem] if problem and len(problems) <= MOST_MALFORMED + rows * MALFORMED_SHARE else []
    except BadFile as error:
        raise Refused(f"the file was not taken: {error}") from None
    if not rows:
        raise Refused("the file was not taken: it has no row below its first line")
    if len(problems) > max(MOST_MALFORMED, MALFORMED_SHARE * rows):
        raise Refused(f"the file was not taken: too many of its {rows:,} rows are malformed, the first: {problems[0]}")
    return digest.hexdigest()


def try_import(session: Session, pieces: Pieces) -> dict[str, int]:
    """Return what an import would do, and change nothing.

    Raises:
        Refused: As `look_at_file`.
    """
    digest = look_at_file(pieces)
    counts = dict.fromkeys(COUNTS, 0)
    if session.scalar(select(StockFile.finished_at).where(StockFile.digest == digest)):
        return counts
    counted_at = session.execute(select(func.now())).scalar_one()
    for page in pages(read(pieces())):
        found = judge(session, page, counted_at)
        met = {"seen": len(page), "changed": len(found.items), "unchanged": found.unchanged}
        for name, number in (met | {"quarantined": len(found.aside)}).items():
            counts[name] += number
    return counts


def import_stock(engine: Engine, name: str, pieces: Pieces, *, by: str) -> Imported:
    """Take a file in and enqueue the run that writes it; go on where an earlier attempt broke off.

    Args:
        engine: The database; each piece is a transaction of its own.
        name: What people call the file.
        pieces: The file.
        by: Who gives it.

    Raises:
        Refused: As `look_at_file`; also if the file changes while it is read.
    """
    digest = look_at_file(pieces)
    with Session(engine) as session, session.begin():
        session.execute(insert(StockFile).values(digest=digest, name=name).on_conflict_do_nothing())
        file = session.scalars(select(StockFile).where(StockFile.digest == digest)).one()
        file_id, finished_at = file.id, file.finished_at
    if finished_at is not None:
        return Imported(file_id, None, finished_at)
    _keep_pieces(engine, file_id, pieces, digest)
    with engine.begin() as connection:
        run_id = enqueue(connection, "imports.stock", {"file_id": str(file_id)}, by=by, action="import stock")
    return Imported(file_id, run_id, None)


def _keep_pieces(engine: Engine, file_id: int, pieces: Pieces, expected: str) -> None:
    digest = hashlib.sha256()
    with Session(engine) as session:
        kept = session.scalar(select(func.count()).where(StockFilePart.file_id == file_id)) or 0
    for number, piece in enumerate(_digested(pieces, digest)):
        if number >= kept:
            with Session(engine) as session, session.begin():
                values = {"file_id": file_id, "number": number, "content": piece}
                session.execute(insert(StockFilePart).values(values).on_conflict_do_nothing())
    if digest.hexdigest() != expected:
        with Session(engine) as session, session.begin():
            session.execute(delete(StockFile).where(StockFile.id == file_id, StockFile.lines == 0))
        raise Refused("the file changed while it was read: give it again when nobody writes it any more")


def _digested(pieces: Pieces, digest: Any) -> Iterator[bytes]:
    for piece in pieces():
        digest.update(piece)
        yield piece
