"""Episodes of alerts: opened once, kept while they go on, resolved when they are over, and told to every channel once.

All of it is statements over sets, in the transaction of the look that found them. Which notices are missing follows
from what is there: an open alert that a channel was not told of, and that nobody silenced, is told now, whether it is
new, its silence has ended, or the channel is. Who was told that it began is told that it is over, silence or not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.orm import Session

from jobs._conditions import Finding
from jobs._job import Job
from models import Kind, What

#: Seconds without having been seen after which an alert is over: two looks.
CALM = 90
#: Alerts told to each channel after one look. In a storm the others follow, unless they are over by then.
LOUDEST = 20
#: Characters of a sentence.
LONGEST = 1_000

KEEP = text("""
    INSERT INTO alerts AS a (kind, subject, sentence)
    SELECT * FROM unnest(CAST(:kinds AS text[]), CAST(:subjects AS text[]), CAST(:sentences AS text[]))
    ORDER BY 1, 2
    ON CONFLICT (kind, subject) WHERE resolved_at IS NULL
    DO UPDATE SET last_seen_at = greatest(a.last_seen_at, now()), sentence = excluded.sentence
    RETURNING id
""")
RESOLVE = text("""
    UPDATE alerts SET resolved_at = now()
    WHERE id IN (SELECT id FROM alerts
                 WHERE resolved_at IS NULL AND last_seen_at < now() - make_interval(secs => :calm)
                 ORDER BY kind, subject FOR UPDATE)
    RETURNING id
""")
#: True of an alert that somebody wants silence about.
SILENCED = "EXISTS (SELECT 1 FROM silences s WHERE s.until > now() AND s.kind IN ('', {a}.kind)"
SILENCED += " AND s.subject IN ('', {a}.subject))"
OPENED = text(f"""
    INSERT INTO alert_notices (alert_id, what, channel)
    SELECT a.id, 'opened', c.channel
    FROM unnest(CAST(:channels AS text[])) AS c (channel)
    CROSS JOIN LATERAL (
        SELECT id FROM alerts
        WHERE resolved_at IS NULL AND NOT {SILENCED.format(a="alerts")}
          AND NOT EXISTS (SELECT 1 FROM alert_notices n
                          WHERE n.alert_id = alerts.id AND n.what = 'opened' AND n.channel = c.channel)
        ORDER BY id LIMIT :loudest) AS a
    ORDER BY a.id
    ON CONFLICT DO NOTHING
    RETURNING alert_id, what, channel
""")
OVER = text("""
    INSERT INTO alert_notices (alert_id, what, channel)
    SELECT n.alert_id, 'resolved', n.channel FROM alert_notices n
    WHERE n.alert_id = ANY(CAST(:ids AS bigint[])) AND n.what = 'opened' AND n.channel = ANY(CAST(:channels AS text[]))
    ORDER BY n.alert_id
    ON CONFLICT DO NOTHING
    RETURNING alert_id, what, channel
""")
AT_ONCE = text("""
    INSERT INTO alert_notices (alert_id, what, channel)
    SELECT :id, 'opened', unnest(CAST(:channels AS text[])) ON CONFLICT DO NOTHING
    RETURNING alert_id, what, channel
""")
CARRIED = text("""
    UPDATE alert_notices n SET run_id = r.run_id
    FROM unnest(CAST(:ids AS bigint[]), CAST(:runs AS bigint[])) AS r (alert_id, run_id)
    WHERE n.alert_id = r.alert_id AND n.what = :what AND n.channel = :channel
""")

#: The job that brings notices to a channel, by the channel's name.
Couriers = Mapping[str, Job[Any]]


def keep(session: Session | Connection, findings: Sequence[Finding]) -> list[int]:
    """Open an alert for what is new, and note that the others go on; return their ids."""
    distinct = list({(finding.kind, finding.subject): finding for finding in findings}.values())
    values = {
        "kinds": [finding.kind for finding in distinct],
        "subjects": [finding.subject for finding in distinct],
        "sentences": [_one_line(finding.sentence) for finding in distinct],
    }
    return list(session.execute(KEEP, values).scalars()) if distinct else []


def resolve(session: Session | Connection) -> list[int]:
    """End the alerts that were not seen for a while; return their ids."""
    return list(session.execute(RESOLVE, {"calm": CALM}).scalars())


def tell(session: Session | Connection, couriers: Couriers, *, over: Sequence[int] = ()) -> int:
    """Enqueue a run for each notice that is missing; return how many.

    Args:
        session: The transaction.
        couriers: The channels that are configured.
        over: Alerts that are resolved now.
    """
    channels = list(couriers)
    opened = session.execute(OPENED, {"channels": channels, "loudest": LOUDEST}).all()
    resolved = session.execute(OVER, {"channels": channels, "ids": list(over)}).all()
    _carry(session, couriers, [*opened, *resolved])
    return len(opened) + len(resolved)


def tell_at_once(session: Session | Connection, couriers: Couriers, by: str) -> dict[str, int]:
    """Tell every channel that somebody tries whether alerts arrive, silence or not; return the runs by channel.

    They are none while an earlier trial by the same person is not over.
    """
    tried = Finding(Kind.TEST, by, f"{by} tries whether alerts arrive: nothing is wrong, and it resolves by itself.")
    (alert_id,) = keep(session, [tried])
    return _carry(session, couriers, session.execute(AT_ONCE, {"id": alert_id, "channels": list(couriers)}).all())


def _carry(session: Session | Connection, couriers: Couriers, written: Sequence[Row[Any]]) -> dict[str, int]:
    """Enqueue the runs of notices that were written, some statements for each channel; return the last of each."""
    last: dict[str, int] = {}
    for channel, courier in couriers.items():
        for what in What:
            ids = [row.alert_id for row in written if (row.what, row.channel) == (what, channel)]
            if ids:
                runs = courier.enqueue_many(session, [{"alert": alert_id, "what": what} for alert_id in ids])
                session.execute(CARRIED, {"ids": ids, "runs": runs, "what": what, "channel": channel})
                last[channel] = runs[-1]
    return last


def _one_line(sentence: str) -> str:
    return " ".join(sentence.split())[:LONGEST]
