"""Taking back what was lost: runs of dead workers, and runs that the broker forgot.

Three steps, each of its own: facts, judgement, write. A run whose process stopped beating ends its attempt as `lost`
and goes back; a run that took several workers in a row with it is set aside as poison. A `queued` run that has waited
long is asked for at the broker: if its message is gone, as far as that broker can tell, it goes back to `waiting` and
is pushed again, by force. Any number of relays may do this at the same time.
"""

from itertools import groupby

from sqlalchemy import Connection, Engine, text

from workers.delivery import Delivery, Queued
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

TAKE_BACK = text("""
    WITH lost AS (
        SELECT r.id FROM runs r
        WHERE r.state = 'running'
            AND NOT EXISTS (SELECT 1 FROM processes p WHERE p.id = r.process_id AND p.stopped_at IS NULL)
        ORDER BY r.id LIMIT :most FOR UPDATE OF r SKIP LOCKED
    ), verdict AS (
        SELECT r.id, r.attempt, r.process_id, r.started_at, CASE
            WHEN r.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN r.deaths + 1 >= :deaths OR r.failures + 1 >= r.max_attempts THEN 'dead'
            ELSE 'waiting' END AS next,
            CASE WHEN r.deaths + 1 >= :deaths
                THEN 'poison: ' || (r.deaths + 1) || ' workers in a row died with this run; see what it does to them'
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


def forgotten_by(delivery: Delivery, queued: list[Queued]) -> list[int]:
    """Return the ids of the runs that the broker has lost, of any queue."""
    by_queue = groupby(sorted(queued, key=lambda run: run.queue), key=lambda run: run.queue)
    return [run_id for queue, runs in by_queue for run_id in delivery.lost(queue, list(runs))]
