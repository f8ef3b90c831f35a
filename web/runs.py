"""One run for programs: where it stands, why, and what it asked of the outside.

Arguments, results and log lines stay behind the sign-in to come; of its calls nothing is kept that is secret.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response

from web.problems import Problem
from workers import calls
from workers.actions import Refused
from workers.blockers import Blocker
from workers.calls import CallView
from workers.census import as_json
from workers.life import look, why

#: The largest id that Postgres can hold.
LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Standing:
    """A run and the sentence that says why it stands where it stands."""

    id: int
    job: str
    queue: str
    state: str
    attempt: int
    created_at: datetime
    due_at: datetime
    #: To be read after "the run".
    why: str
    #: What it waits for; empty once it runs or has ended.
    waits_for: Blocker | None
    #: What it asked of the outside, by attempt.
    calls: list[CallView]
    #: How many more an attempt made, by its number.
    calls_left_out: dict[int, int]


class Runs:
    """The endpoints about single runs.

    Args:
        engine: The database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def show(self, run_id: int) -> Response:
        """Where a run stands and, if it waits, what is in its way, since when and until when."""
        if not 1 <= run_id <= LARGEST_ID:
            return Problem(404, f"there is no run {run_id}")
        try:
            with self._engine.connect() as connection:
                life, made = look(connection, run_id), calls.look(connection, run_id)
        except Refused as refused:
            return Problem(404, str(refused))
        except SQLAlchemyError:
            return Problem(503, "Postgres does not answer: ask again", headers={"Retry-After": "5"})
        shown = {name: life.run[name] for name in ("id", "job", "queue", "state", "attempt", "created_at", "due_at")}
        told = Standing(**shown, why=why(life), waits_for=life.blocker, calls=made.listed, calls_left_out=made.left_out)
        return JSONResponse(as_json(told))
