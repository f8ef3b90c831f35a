"""Stock that people counted, sent by a program: the same file, ledger and quarantine as on the command line.

The body is the file as it is. It is kept on disk until all of it is here, because it is judged whole before any of it
counts, and it may be larger than memory. What broke off is sent again: pieces that are kept already are not kept twice.
"""

from collections.abc import Iterator
from datetime import datetime
from tempfile import TemporaryFile
from typing import IO, Annotated

from fastapi import Query
from pydantic import BaseModel
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from web import forms
from web.credentials import Caller
from web.problems import Problem
from workers import actions
from workers.actions import Refused

#: Bytes of a file at most: some ten million rows.
LARGEST = 2**28
_AWAY = "Postgres does not answer, so the file was not taken whole: send it again, it goes on where it was."

Name = Annotated[str, Query(max_length=200, description="What people call the file.")]


class Taken(BaseModel):
    """A file that was taken in."""

    file: int
    #: Writes it; none when all of it had been written before.
    run: int | None
    #: When it had been written before.
    finished_at: datetime | None


class Imports:
    """The endpoint about files of counted stock.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def stock(self, request: Request, name: Name = "upload.csv") -> Response:
        """Set stock levels to the figures of a CSV file; answers with the run that does, or when it was done before."""
        with TemporaryFile() as kept:
            try:
                if not await _received(request, kept):
                    return Problem(413, f"The file has more than {LARGEST:,} bytes: cut it in two.")
            except ClientDisconnect:
                return Problem(400, "The file broke off: send it again.")
            return await run_in_threadpool(self._take, kept, name, request.state.caller)

    def _take(self, kept: IO[bytes], name: str, caller: Caller) -> Response:
        def pieces() -> Iterator[bytes]:
            kept.seek(0)
            while piece := kept.read(actions.PIECE):
                yield piece

        called = forms.in_one_line(name, 200) or "upload.csv"
        try:
            found = actions.import_stock(self._engine, called, pieces, by=caller.actor)
        except Refused as refused:
            return Problem(422, str(refused))
        except SQLAlchemyError:
            return Problem(503, _AWAY, headers={"Retry-After": "5"})
        taken = Taken(file=found.file_id, run=found.run_id, finished_at=found.finished_at)
        return JSONResponse(taken.model_dump(mode="json"), 200 if taken.run is None else 202)


async def _received(request: Request, kept: IO[bytes]) -> bool:
    """Write a body to disk; return whether it was not too large."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST:
            return False
        await run_in_threadpool(kept.write, chunk)
    return True
