"""Alerts: what should not go on is found every minute, and told once when it begins and once when it is over.

`check` looks at everything and writes what it finds (see `jobs/_conditions.py` and `jobs/_episodes.py`). What has to be
told is a run for each channel, enqueued in the same transaction, so no alert is forgotten between being found and being
told, and a channel that is away is tried again like any other upstream. The runs of one alert on one channel are
ordered: "resolved" never comes before "opened".

They have a queue of their own: a long job of the house must not keep them waiting. Without a worker for that queue, or
without a scheduler, nobody is told of anything; whoever asks `/health` from outside is the net under it.
"""

from typing import Any, Literal

from sqlalchemy import text

import jobs
from integrations import Channel, Notice, Rejected
from integrations.alert_email import AlertEmail
from integrations.alert_slack import AlertSlack
from integrations.alert_webhook import AlertWebhook
from jobs import Backoff, Cancel, Context, Job, RowId, every, job
from jobs._conditions import look
from jobs._episodes import Couriers, keep, resolve, tell

QUEUE = "alerts"
#: Twelve attempts over about two hours.
PATIENT = Backoff(first=5, longest=1200)
TRIES = 12

ALERT = text("SELECT key, kind, subject, sentence, opened_at, resolved_at FROM alerts WHERE id = :id")

Said = Literal["opened", "resolved"]


@job(queue=QUEUE, max_attempts=2, time_limit=60, schedule=every(minutes=1))
def check(context: Context) -> dict[str, Any]:
    """Look for what should not go on, and have it told."""
    queues = {known.queue for known in jobs.all_jobs().values()}
    to = _configured(context)
    with context.transaction() as session:
        found = keep(session, look(session, queues=queues, run_id=context.run_id))
        over = resolve(session)
        told = tell(session, to, over=over)
    return {"found": len(found), "resolved": len(over), "notices": told}


@job(queue=QUEUE, needs=[AlertWebhook], key="alert", ordered=True, max_attempts=TRIES, time_limit=60, backoff=PATIENT)
def to_webhook(context: Context, *, alert: RowId, what: Said) -> None:
    """Post a notice of an alert to the webhook."""
    _bring(context, AlertWebhook, alert, what)


@job(queue=QUEUE, needs=[AlertSlack], key="alert", ordered=True, max_attempts=TRIES, time_limit=60, backoff=PATIENT)
def to_slack(context: Context, *, alert: RowId, what: Said) -> None:
    """Write a notice of an alert into the chat."""
    _bring(context, AlertSlack, alert, what)


@job(queue=QUEUE, needs=[AlertEmail], key="alert", ordered=True, max_attempts=TRIES, time_limit=90, backoff=PATIENT)
def to_email(context: Context, *, alert: RowId, what: Said) -> None:
    """Send a notice of an alert by e-mail."""
    _bring(context, AlertEmail, alert, what)


#: Every channel and the job that brings notices to it.
CHANNELS: dict[type[Channel], Job[Any]] = {AlertWebhook: to_webhook, AlertSlack: to_slack, AlertEmail: to_email}
COURIERS: Couriers = {kind.name: courier for kind, courier in CHANNELS.items()}


def _configured(context: Context) -> Couriers:
    return {kind.name: courier for kind, courier in CHANNELS.items() if _is_configured(context, kind)}


def _is_configured(context: Context, kind: type[Channel]) -> bool:
    try:
        context.use(kind)
    except Rejected:
        return False
    return True


def _bring(context: Context, kind: type[Channel], alert: int, what: Said) -> None:
    with context.transaction() as session:
        row = session.execute(ALERT, {"id": alert}).one_or_none()
    if row is None:
        raise Cancel(f"alert {alert} is no longer kept")
    first = f"{row.key.hex}-opened-{kind.name}"
    notice = Notice(
        id=f"{row.key.hex}-{what}-{kind.name}",
        thread=first,
        kind=row.kind,
        subject=row.subject,
        sentence=row.sentence,
        opened_at=row.opened_at,
        resolved_at=row.resolved_at if what == "resolved" else None,
    )
    for missed in context.use(kind).tell(notice):
        context.log(f"not reached: {missed}")
