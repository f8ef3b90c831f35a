"""Taking back what was lost: runs of dead workers, and runs that the broker forgot; ending what came too late.

Three steps, each of its own: facts, judgement, write. A run whose process stopped beating ends its attempt as `lost`
and goes back; a run that took several workers in a row with it is set aside as poison. A `queued` run that has waited
long is asked for at the broker: if its message is gone, as far as that broker can tell, it goes back to `waiting` and
is pushed again, by force.

Beside these, runs are ended that waited until their time was over: the claim refuses them already, here they get their
last state and a sentence. Any number of relays may do all this at the same time.
"""

from itertools import groupby

from sqlalchemy import Connection, Engine, TextClause, text

from workers import logs
from workers.delivery import Delivery, Queued
from workers.ledger import OUT_OF_TIME, spelled
from workers.process import STALE_AFTER

#: Workers in a row that may die with a run in their hands before it is set aside.
DEATHS_ALLOWED = 3
#: Seconds of pause after the first lost worker; doubled with each further one.
PAUSE_AFTER_DEATH = 2.0
#: Seconds a run may be queued before the broker is asked whether it still has its message.
MISSING_AFTER = 5.0
#: Runs looked at in one pass.
MOST = 5_000

BURY_PROCESSES = text("""
    UPDATE processes SET stopped_at = now()
    WHERE stopped_at IS NULL AND heartbeat_at < now() - :stale * interval '1 second'
    RETURNING id
""")

TAKE_BACK = text(f"""
    WITH lost AS (
        SELECT r.id FROM runs r
        WHERE r.state = 'running'
            AND NOT EXISTS (SELECT 1 FROM processes p WHERE p.id = r.process_id AND p.stopped_at IS NULL)
        ORDER BY r.id LIMIT :most FOR UPDATE OF r SKIP LOCKED
    ), verdict AS (
        SELECT r.id, r.attempt, r.process_id, r.started_at, CASE
            WHEN r.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN r.deaths + 1 >= :deaths OR r.failures + 1 >= r.max_attempts THEN 'dead'
            WHEN now() + :pause * power(2, r.deaths) * interval '1 second' >= r.deadline_at THEN 'dead'
            ELSE 'waiting' END AS next,
            CASE WHEN r.deaths + 1 >= :deaths
                THEN 'poison: ' || (r.deaths + 1) || ' workers in a row died with this run; see what it does to them'
                WHEN now() + :pause * power(2, r.deaths) * interval '1 second' >= r.deadline_at
                THEN {OUT_OF_TIME} || '; the last one: the worker that held it died'
                ELSE 'the worker that held it died' END AS why
        FROM runs r JOIN lost l ON l.id = r.id
    ), moved AS (
        UPDATE runs r
        SET state = v.next,
            unique_key = CASE WHEN r.unique_while = 'window' OR v.next = 'waiting' THEN r.unique_key END,
            failures = r.failures + 1, deaths = r.deaths + 1, queued_at = NULL, error = v.why,
            due_at = now() + :pause * power(2, r.deaths) * interval '1 second',
            finished_at = CASE WHEN v.next = 'waiting' THEN NULL ELSE now() END, cancel_requested_at = NULL
        FROM verdict v WHERE r.id = v.id AND r.state = 'running' AND r.attempt = v.attempt
        RETURNING r.id
    )
    INSERT INTO attempts (run_id, number, process_id, started_at, outcome, error_class, error)
    SELECT v.id, v.attempt, v.process_id, v.started_at, 'lost', 'Lost', v.why
    FROM verdict v JOIN moved m ON m.id = v.id
    RETURNING run_id
""")

# Work whose time is over while it waits. Rows that a claim, a relay or an operator holds at this moment are theirs.
EXPIRE = text(f"""
    WITH expired AS (
        SELECT id FROM runs WHERE state IN ('waiting', 'queued') AND expires_at <= now() AND attempt = 0
        ORDER BY expires_at LIMIT :most FOR UPDATE SKIP LOCKED
    )
    UPDATE runs r
    SET state = 'cancelled', finished_at = now(), queued_at = NULL,
        unique_key = CASE WHEN unique_while = 'window' THEN unique_key END,
        error = 'expired: it was wanted until ' || {spelled("expires_at")} || ' and had not begun'
    FROM expired e WHERE r.id = e.id
    RETURNING r.id
""")
END_OVERDUE = text(f"""
    WITH overdue AS (
        SELECT id FROM runs WHERE state IN ('waiting', 'queued') AND deadline_at <= now()
        ORDER BY deadline_at LIMIT :most FOR UPDATE SKIP LOCKED
    )
    UPDATE runs r
    SET state = 'dead', finished_at = now(), queued_at = NULL,
        unique_key = CASE WHEN unique_while = 'window' THEN unique_key END,
        error = concat_ws('; the last one: ', {OUT_OF_TIME}, r.error)
    FROM overdue o WHERE r.id = o.id
    RETURNING r.id
""")

LONG_QUEUED = text("""
    SELECT late.id, q.name, extract(epoch FROM now() - late.queued_at) AS age
    FROM queues q CROSS JOIN LATERAL (
        SELECT id, queued_at FROM runs
        WHERE state = 'queued' AND queue = q.name AND queued_at < now() - :age * interval '1 second'
        ORDER BY queued_at LIMIT :most
    ) late
""")

BACK_TO_WAITING = text("""
    UPDATE runs SET state = 'waiting', queued_at = NULL
    WHERE id IN (SELECT id FROM runs WHERE id = ANY(:ids) AND state = 'queued' ORDER BY id FOR UPDATE SKIP LOCKED)
    RETURNING id
""")


def rescue(engine: Engine, delivery: Delivery, *, bury: bool = True) -> tuple[int, int]:
    """Do one pass; return how many runs were taken back from dead workers and how many from the broker."""
    end_what_is_over(engine)
    with engine.begin() as connection:
        lost = take_back(connection, bury=bury)
    with engine.begin() as connection:
        queued = [Queued(*row) for row in connection.execute(LONG_QUEUED, {"age": MISSING_AFTER, "most": MOST})]
    if not queued:
        return lost, 0
    forgotten = forgotten_by(delivery, queued)
    with engine.begin() as connection:
        returned = connection.execute(BACK_TO_WAITING, {"ids": forgotten}).all() if forgotten else []
    return lost, len(returned)


def take_back(connection: Connection, *, bury: bool = True) -> int:
    """Close the rows of processes that stopped beating and put their runs back; return how many runs."""
    if bury:
        connection.execute(BURY_PROCESSES, {"stale": STALE_AFTER})
    facts = {"most": MOST, "deaths": DEATHS_ALLOWED, "pause": PAUSE_AFTER_DEATH}
    return len(connection.execute(TAKE_BACK, facts).all())


def end_what_is_over(engine: Engine) -> tuple[int, int]:
    """End waiting runs whose time has passed, set by set; return how many expired and how many met their deadline."""
    expired, overdue = _end_all(engine, EXPIRE), _end_all(engine, END_OVERDUE)
    if expired or overdue:
        logs.get().warning("runs ended that waited for too long", expired=expired, past_their_deadline=overdue)
    return expired, overdue


def _end_all(engine: Engine, statement: TextClause) -> int:
    ended = 0
    while True:
        with engine.begin() as connection:
            some = len(connection.execute(statement, {"most": MOST}).all())
        ended += some
        if some < MOST:
            return ended


def forgotten_by(delivery: Delivery, queued: list[Queued]) -> list[int]:
    """Return the ids of the runs that the broker has lost, of any queue."""
    by_queue = groupby(sorted(queued, key=lambda run: run.queue), key=lambda run: run.queue)
    return [run_id for queue, runs in by_queue for run_id in delivery.lost(queue, list(runs))]
