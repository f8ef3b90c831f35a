"""Alerts by hand: silence for a while, and a trial of whether they arrive.

A silence may be about something that is not wrong yet, such as a queue before its workers are moved. It always has an
end, because nobody remembers one that has none.
"""

from datetime import datetime

from sqlalchemy import Connection, delete, func
from sqlalchemy.dialects.postgresql import insert

from jobs import _episodes
from models import Kind, Silence
from workers.actions._audit import Refused, record, require_known

#: What stands for every kind.
ALL = "all"


def silence(
    connection: Connection, kind: str, subject: str | None, *, until: datetime, by: str, reason: str | None = None
) -> None:
    """Keep alerts to ourselves until then; a silence of the same name is replaced.

    Args:
        connection: The caller's transaction.
        kind: Kind of alert, or `all`.
        subject: What they are about; None for anything.
        until: When it ends.
        by: Who.
        reason: Why.

    Raises:
        Refused: If there is no such kind.
    """
    name = silence_name(kind, subject)
    values = {"until": until, "silenced_by": by, "reason": reason}
    written = insert(Silence).values(**name, **values)
    connection.execute(
        written.on_conflict_do_update(index_elements=list(name), set_=values | {"silenced_at": func.now()})
    )
    details = {"until": until.isoformat()} | ({"reason": reason} if reason else {})
    record(connection, by=by, action="alerts silence", target=_target(kind, subject), details=details)


def unsilence(connection: Connection, kind: str, subject: str | None, *, by: str) -> bool:
    """End a silence. Returns False if there is none of this name.

    Raises:
        Refused: If there is no such kind.
    """
    name = silence_name(kind, subject)
    ended = delete(Silence).filter_by(**name).where(Silence.until > func.now()).returning(Silence.kind)
    if connection.execute(ended).one_or_none() is None:
        return False
    record(connection, by=by, action="alerts unsilence", target=_target(kind, subject))
    return True


def try_alerts(connection: Connection, couriers: _episodes.Couriers, *, by: str) -> dict[str, int]:
    """Send a message that nothing is wrong through every channel; return the runs by channel.

    Raises:
        Refused: If no channel is configured, or an earlier trial is not over.
    """
    if not couriers:
        raise Refused("no channel is configured: set ALERT_WEBHOOK_URL, ALERT_SLACK_URL or ALERT_EMAIL_TO")
    runs = _episodes.tell_at_once(connection, couriers, by)
    if not runs:
        raise Refused(f"a trial by {by} is under way and resolves within minutes: `headrace alerts list`")
    record(connection, by=by, action="alerts test", target=", ".join(runs), count=len(runs), details={"runs": runs})
    return runs


def silence_name(kind: str, subject: str | None) -> dict[str, str]:
    """Return the columns that name a silence.

    Raises:
        Refused: If there is no such kind.
    """
    require_known("kind of alert", kind, {ALL, *Kind})
    return {"kind": "" if kind == ALL else kind, "subject": subject or ""}


def _target(kind: str, subject: str | None) -> str:
    return f"{kind} {subject}" if subject else kind
