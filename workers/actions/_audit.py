"""The audit: one line for each action, in the action's own transaction."""

from difflib import get_close_matches
from typing import Any, Self

from sqlalchemy import Connection, insert

from models import AuditEntry, Role
from workers.logs import redact


class Refused(Exception):  # noqa: N818 - reads as what it is in a message
    """An operator asked for something that is not there or must not be; the message says what to ask instead."""


class Actor(str):
    """Who acts: a name wherever an action wants one, and the role that the audit keeps beside it.

    Args:
        name: The user's name.
        role: Their role at that moment.
    """

    __slots__ = ("role",)
    role: Role

    def __new__(cls, name: str, role: Role) -> Self:
        made = super().__new__(cls, name)
        made.role = role
        return made


def record(
    connection: Connection, *, by: str, action: str, target: str, count: int = 1, details: dict[str, Any] | None = None
) -> None:
    """Write one line of the audit; what looks like a secret is replaced.

    Args:
        connection: The transaction of the action itself.
        by: The person or account; an `Actor` if it is a user of ours.
        action: Noun and verb, as on the command line: `queues pause`.
        target: What it was done to, in words.
        count: How many rows it touched.
        details: More, as small JSON.
    """
    role = by.role if isinstance(by, Actor) else None
    values = {"actor": str(by), "role": role, "action": action, "target": redact(target), "count": count}
    connection.execute(insert(AuditEntry).values(**values, details=redact(details) if details else None))


def require_known(noun: str, name: str, known: set[str]) -> None:
    """Refuse a name that is not known, with the nearest one that is.

    Raises:
        Refused: If it is unknown.
    """
    if name in known:
        return
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(sorted(known))}" if known else "there is none"
    raise Refused(f"there is no {noun} called {name!r}: {hint}")
