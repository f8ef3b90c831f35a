"""The story of one run: where it stands and why, where it came from, its attempts, what it said and what it called.

The command line and the run's page tell it from here, so they cannot say different things.
"""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from workers import calls, relations
from workers.calls import Calls
from workers.life import Life, look, why
from workers.logs import redact
from workers.moments import exactly, when

#: Lines of its log and attempts that are read, from the newest end.
LINES = 200
MOST_ATTEMPTS = 200

ATTEMPTS = text("""
    SELECT number, outcome, started_at, finished_at, extract(epoch FROM finished_at - started_at)::float8 AS seconds,
           error_class, error, traceback
    FROM attempts WHERE run_id = :id ORDER BY number DESC LIMIT :most
""")
LOG = text("SELECT at, attempt, line, fields FROM log_lines WHERE run_id = :id ORDER BY id DESC LIMIT :most")


@dataclass(frozen=True)
class Story:
    """A run with everything that is kept of it."""

    life: Life
    #: Oldest first.
    attempts: list[dict[str, Any]]
    #: Oldest first.
    log: list[dict[str, Any]]
    #: Its batch, its chain, its parent and its children.
    relations: dict[str, Any]
    calls: Calls


def read(connection: Connection, run_id: int) -> Story:
    """Read the story of a run, with secrets replaced.

    Raises:
        Refused: If there is no such run.
    """
    life = look(connection, run_id)
    tried = connection.execute(ATTEMPTS, {"id": run_id, "most": MOST_ATTEMPTS}).mappings().all()
    said = connection.execute(LOG, {"id": run_id, "most": LINES}).mappings().all()
    attempts, log = ([redact(dict(row)) for row in reversed(newest)] for newest in (tried, said))
    return Story(life, attempts, log, relations.read(connection, life.run), calls.look(connection, run_id))


def as_object(story: Story) -> dict[str, Any]:
    """Return the story as one object."""
    told = {"why": why(story.life), "attempts": story.attempts, "log": story.log}
    return story.life.run | told | story.relations | story.calls.as_object()


def facts(story: Story) -> list[tuple[str, str]]:
    """Return what else there is to say about it, by its name."""
    run, life = story.life.run, story.life
    told = {
        "queue": run["queue"],
        "arguments": json.dumps(run["args"], ensure_ascii=False) if run["args"] else None,
        "created": f"{exactly(run['created_at'])}, {when(run['created_at'], life.now)}",
        "came from": _origin(run, story.relations),
        "progress": _progress(run["progress"]) if run["progress"] else None,
        "goes on at": json.dumps(run["checkpoint"], ensure_ascii=False) if run["checkpoint"] else None,
        "wanted": f"until {exactly(run['expires_at'])}, unless it has begun" if run["expires_at"] else None,
        "deadline": exactly(run["deadline_at"]) if run["deadline_at"] else None,
        "result": json.dumps(run["result"], ensure_ascii=False) if run["result"] is not None else None,
        "failures": f"{run['failures']} of {run['max_attempts']}",
    } | relations.facts(story.relations)
    return [(name, value) for name, value in told.items() if value]


def _origin(run: dict[str, Any], related: dict[str, Any]) -> str | None:
    if run["event_id"] is not None:
        return f"webhook event {run['event_id']}: `headrace webhooks show {run['event_id']}`"
    if run["schedule"] is not None:
        return f"schedule {run['schedule']}, slot of {exactly(run['slot_at'])}"
    known = run["parent_id"] is not None or related["callback_of"]
    return None if known else "an enqueue by hand or by the shop itself"


def _progress(progress: dict[str, Any]) -> str:
    total = f" of {progress['total']:,}" if progress.get("total") else ""
    return f"{progress.get('done') or 0:,}{total} {progress.get('note') or ''}".strip()
