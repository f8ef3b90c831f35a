"""The journal of effects, as an attempt writes it.

    began   a call that may change something there is written before it is sent, by a statement of its own. The
            statement asks whether the run is still ours: an attempt that was taken for dead sends nothing more. If it
            cannot be written, nothing is sent either.
    ended   what came of a call goes into the buffer of outcomes, which writes it in sets.

So a worker that is killed between the two leaves a row that says: begun, and nobody knows. Reads have no first part.

Of an attempt's reads the first and the last are kept, and of what is not a read too, with larger numbers. The last
reads are held here until the attempt ends; for the rest a row that falls out of the last ones is removed by the
statement that writes the next.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, text

from integrations._calls import JOURNAL, Call
from jobs import Interrupted
from workers import logs

#: Reads of an attempt that are kept: the first so many and the last so many.
FIRST_READS, LAST_READS = 25, 25
#: The same of everything else.
FIRST_WRITES, LAST_WRITES = 500, 500
#: Characters kept of what callers and upstreams make up.
LONGEST = 255
#: How long an intention waits for the row of its run, which the job's own transaction may have locked.
PATIENCE = "5s"

# One statement, so that it is one round trip: how long to wait for a lock, what falls out, and the intention.
INTEND = text("""
    WITH patience AS MATERIALIZED (SELECT set_config('lock_timeout', :patience, true)),
    fallen AS (DELETE FROM calls WHERE run_id = :run_id AND attempt = :attempt AND place = :fallen)
    INSERT INTO calls (run_id, attempt, place, upstream, method, template, idempotency_key)
    SELECT r.id, r.attempt, :place, :upstream, :method, :template, :idempotency_key
    FROM patience CROSS JOIN runs r
    WHERE r.id = :run_id AND r.attempt = :attempt AND r.state = 'running'
    RETURNING 1
""")

# When a read began is known by its age, for the clock of a worker's host may be wrong.
KEEP = text("""
    INSERT INTO calls AS kept (run_id, attempt, place, upstream, method, template, idempotency_key, began_at,
        milliseconds, tries, status, error, request_id)
    SELECT c.run_id, c.attempt, c.place, c.upstream, c.method, c.template, c.idempotency_key,
        clock_timestamp() - (:now - c.began) * interval '1 second', c.milliseconds, c.tries, c.status, c.error,
        c.request_id
    FROM jsonb_to_recordset(CAST(:calls AS jsonb)) AS c(
        run_id bigint, attempt int, place int, upstream text, method text, template text, idempotency_key text,
        began float8, milliseconds int, tries smallint, status smallint, error text, request_id text)
    ON CONFLICT (run_id, attempt, place) DO UPDATE SET
        milliseconds = excluded.milliseconds, tries = excluded.tries, status = excluded.status,
        error = excluded.error, request_id = excluded.request_id
""")

Row = dict[str, Any]


def write(connection: Connection, rows: Sequence[Row]) -> None:
    """Keep what came of calls."""
    connection.execute(KEEP, {"calls": orjson.dumps(rows).decode(), "now": time.monotonic()})


class AttemptJournal:
    """Keeps the calls that this thread makes while it is entered. Every attempt has one, so it costs next to nothing.

    Args:
        run_id: Whose calls they are.
        attempt: In which attempt.
        engine: Where intentions are written.
        keep: Takes what came of a call, to be written in a set.
    """

    __slots__ = (
        *("_attempt", "_engine", "_keep", "_run_id", "_token"),
        *("_count", "_last_reads", "_last_writes", "_reads", "_writes"),
    )
    #: Held for a few steps only, by the threads of jobs that have several.
    _lock = Lock()

    def __init__(self, run_id: int, attempt: int, engine: Engine, keep: Callable[[Row], None]) -> None:
        self._run_id, self._attempt = run_id, attempt
        self._engine, self._keep = engine, keep
        self._count = self._reads = self._writes = 0
        self._last_reads: deque[Row] | None = None
        #: Places of the last ones beyond the first.
        self._last_writes: deque[int] | None = None

    def __enter__(self) -> None:
        self._token = JOURNAL.set(self)

    def __exit__(self, *_: object) -> None:
        JOURNAL.reset(self._token)
        while self._last_reads:
            self._keep(self._last_reads.popleft())

    def began(self, call: Call) -> int:
        """Give a call its place, and write it down if it is no read.

        Raises:
            Interrupted: The run was taken from this attempt.
        """
        with self._lock:
            self._count += 1
            place = self._count
            fallen = 0 if call.reads else self._fall(place)
        if not call.reads:
            self._intend(call, place, fallen)
        return place

    def ended(self, place: int, call: Call) -> None:
        """Keep what came of a call."""
        row = self._row(place, call)
        if call.reads:
            with self._lock:
                self._reads += 1
                if self._reads > FIRST_READS:
                    self._last_reads = self._last_reads or deque(maxlen=LAST_READS)
                    self._last_reads.append(row)
                    return
        self._keep(row)

    def _fall(self, place: int) -> int:
        """Return the place of what is no longer one of the last; call it with the lock."""
        self._writes += 1
        if self._writes <= FIRST_WRITES:
            return 0
        self._last_writes = self._last_writes or deque()
        self._last_writes.append(place)
        return self._last_writes.popleft() if len(self._last_writes) > LAST_WRITES else 0

    def _intend(self, call: Call, place: int, fallen: int) -> None:
        values = {"fallen": fallen, "patience": PATIENCE}
        with self._engine.begin() as connection:
            mine = connection.execute(INTEND, self._row(place, call) | values).scalar()
        if mine is None:
            raise Interrupted(f"run {self._run_id} was taken from attempt {self._attempt}: {call.method} was not sent")

    def _row(self, place: int, call: Call) -> Row:
        return {
            "run_id": self._run_id,
            "attempt": self._attempt,
            "place": place,
            "upstream": call.upstream,
            "method": call.method,
            "template": _shown(call.template),
            "idempotency_key": _shown(call.idempotency_key),
            "began": call.began,
            "milliseconds": None if call.seconds is None else round(call.seconds * 1000),
            "tries": call.tries,
            "status": call.status,
            "error": call.error,
            "request_id": _shown(call.request_id),
        }


def _shown(value: str | None) -> str | None:
    """Return a text as it may be kept and shown."""
    if value is None:
        return None
    plain = "".join(sign if sign.isprintable() else "?" for sign in value)
    return logs.redact_text(plain)[:LONGEST]
