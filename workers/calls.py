"""What a run asked of the outside: the journal of effects, read for people.

A call whose end is not known is either under way, in an attempt that is running, or open for ever: its worker died
before it could write what came of it. Then nobody here can say whether it was done; the upstream can, by the
idempotency key.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

#: Calls of one run that are shown: those that may have changed something before mere reads, then the newest.
MOST = 500

LOOK = text("""
    SELECT c.attempt, c.place, c.upstream, c.method, c.template, c.status, c.error, c.milliseconds, c.tries,
           c.idempotency_key, c.request_id, c.began_at,
           c.milliseconds IS NULL AND r.state = 'running' AND r.attempt = c.attempt AS under_way
    FROM calls c JOIN runs r ON r.id = c.run_id WHERE c.run_id = :id
    ORDER BY c.method IN ('GET', 'HEAD'), c.attempt DESC, c.place DESC LIMIT :most
""")
COUNT = text("SELECT attempt, max(place) FROM calls WHERE run_id = :id GROUP BY attempt ORDER BY attempt")


@dataclass(frozen=True)
class CallView:
    """One call of a run, and what came of it."""

    attempt: int
    #: Its number among the calls of the attempt.
    place: int
    upstream: str
    method: str
    template: str
    #: HTTP status of the last try.
    status: int | None
    #: Class of what went wrong.
    error: str | None
    milliseconds: int | None
    tries: int
    idempotency_key: str | None
    #: The upstream's own name for the last try.
    request_id: str | None
    began_at: datetime
    #: `done`, `failed`, `not sent`, `under way`, or `unknown`: begun, and what came of it was never written.
    outcome: str

    @property
    def told(self) -> str:
        """What came of it and by what sign: `done 200`, `failed ReadTimeout`, `unknown`."""
        return " ".join(str(part) for part in (self.outcome, self.status, self.error) if part)


@dataclass(frozen=True)
class Calls:
    """The calls of a run, by attempt and place."""

    listed: list[CallView]
    #: How many of an attempt's calls are not listed, by its number.
    left_out: dict[int, int]

    def as_object(self) -> dict[str, Any]:
        """Return both as fields of an object for programs."""
        return {"calls": [asdict(call) for call in self.listed], "calls_left_out": self.left_out}


def look(connection: Connection, run_id: int) -> Calls:
    """Read the calls of a run."""
    rows = connection.execute(LOOK, {"id": run_id, "most": MOST}).mappings().all()
    listed = sorted((_view(dict(row)) for row in rows), key=lambda call: (call.attempt, call.place))
    seen = Counter(call.attempt for call in listed)
    totals = connection.execute(COUNT, {"id": run_id})
    return Calls(listed, {attempt: total - seen[attempt] for attempt, total in totals if total > seen[attempt]})


def _view(row: dict[str, Any]) -> CallView:
    return CallView(outcome=outcome(row, under_way=row.pop("under_way")), **row)


def outcome(row: dict[str, Any], *, under_way: bool) -> str:
    """Say in a word what came of a call."""
    if row["milliseconds"] is None:
        return "under way" if under_way else "unknown"
    if not row["tries"]:
        return "not sent"
    return "failed" if row["error"] else "done"
