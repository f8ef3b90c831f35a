"""The story of one run: where it stands and why, where it came from, its attempts, what it said and what it called."""

import json
from dataclasses import dataclass
from typing import Any

from rich.text import Text
from sqlalchemy import Connection, text

from models import State
from workers import calls
from workers.calls import Calls
from workers.cli import relations
from workers.cli.tables import Columns, console, printable, show
from workers.life import Life, look, why
from workers.logs import redact, redact_text
from workers.moments import exactly, span, when

#: Lines of its log that are shown, from the newest end.
LINES = 200

ATTEMPTS = text("""
    SELECT number, outcome, started_at, finished_at, extract(epoch FROM finished_at - started_at)::float8 AS seconds,
           error_class, error, traceback
    FROM attempts WHERE run_id = :id ORDER BY number
""")
LOG = text("SELECT at, attempt, line, fields FROM log_lines WHERE run_id = :id ORDER BY id DESC LIMIT :most")

COLUMNS = {
    "attempt": lambda attempt: attempt["number"],
    "outcome": lambda attempt: attempt["outcome"],
    "started": lambda attempt: exactly(attempt["started_at"]),
    "took": lambda attempt: span(attempt["seconds"]),
    "error": lambda attempt: attempt["error"],
}

CALLS: Columns = {
    "attempt": lambda call: call.attempt,
    "call": lambda call: f"{call.upstream} {call.method} {call.template}",
    "outcome": lambda call: call.told,
    "began": lambda call: exactly(call.began_at),
    "took": lambda call: None if call.milliseconds is None else f"{call.milliseconds:,} ms",
    "tries": lambda call: call.tries,
    "idempotency key": lambda call: call.idempotency_key,
    "their request id": lambda call: call.request_id,
}


@dataclass(frozen=True)
class Story:
    """A run with everything that is kept of it."""

    life: Life
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
    attempts = [redact(dict(row)) for row in connection.execute(ATTEMPTS, {"id": run_id}).mappings()]
    newest = connection.execute(LOG, {"id": run_id, "most": LINES}).mappings().all()
    log = [redact(dict(row)) for row in reversed(newest)]
    return Story(life, attempts, log, relations.read(connection, life.run), calls.look(connection, run_id))


def as_object(story: Story) -> dict[str, Any]:
    """Return the story as one object."""
    told = {"why": why(story.life), "attempts": story.attempts, "log": story.log}
    return story.life.run | told | story.relations | story.calls.as_object()


def tell(story: Story) -> None:
    """Print the story for people."""
    run, page = story.life.run, console()
    page.print(Text(f"run {run['id']}  {run['job']}", style="bold"))
    page.print(Text(printable(f"It {why(story.life)}.")))
    for name, value in _facts(story):
        page.print(Text(f"  {name:<12}", style="dim").append(printable(value), style="default"))
    if story.attempts:
        show(story.attempts, COLUMNS, as_json=False, empty="")
    _tell_traceback(story)
    _tell_calls(story.calls)
    for line in story.log:
        fields = " ".join(f"{name}={value}" for name, value in (line["fields"] or {}).items())
        page.print(Text(printable(f"{exactly(line['at'])}  {line['line']}  {fields}")))


def _facts(story: Story) -> list[tuple[str, str]]:
    run, life = story.life.run, story.life
    facts = {
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
    return [(name, value) for name, value in facts.items() if value]


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


def _tell_calls(made: Calls) -> None:
    if made.listed:
        show(made.listed, CALLS, as_json=False, empty="")
    for attempt, count in made.left_out.items():
        console().print(Text(f"  {count:,} more calls of attempt {attempt} are left out", style="dim"))


def _tell_traceback(story: Story) -> None:
    last = story.attempts[-1] if story.attempts else None
    if last and last["traceback"] and story.life.run["state"] != State.SUCCEEDED:
        for line in redact_text(last["traceback"]).splitlines():
            console().print(Text(f"  {printable(line)}", style="dim"))
