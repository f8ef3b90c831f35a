"""One run for programs: where it stands, and why. Arguments, results and log lines stay behind the sign-in to come."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response

from web.problems import Problem
from workers.actions import Refused
from workers.blockers import Blocker
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
                life = look(connection, run_id)
        except Refused as refused:
            return Problem(404, str(refused))
        except SQLAlchemyError:
            return Problem(503, "Postgres does not answer: ask again", headers={"Retry-After": "5"})
        shown = {name: life.run[name] for name in ("id", "job", "queue", "state", "attempt", "created_at", "due_at")}
        return JSONResponse(as_json(Standing(**shown, why=why(life), waits_for=life.blocker)))
