"""Users by hand: who they are, what they may do, and the tokens of their programs.

Whatever makes somebody less trusted (disabled, a new password) ends what they had open in the same transaction.
"""

import re
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, null, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from models import ApiToken, Role, SignIn, User
from workers import tickets
from workers.actions._audit import Refused, record, require_known

#: Characters of a name and of a purpose at most.
LONGEST = 100
_NAME = re.compile(rf"[^\s\x00-\x1f\x7f]{{1,{LONGEST}}}")


def add_user(connection: Connection, name: str, role: Role, kept: str, *, by: str) -> None:
    """Add a user.

    Args:
        connection: The caller's transaction.
        name: What they sign in with.
        role: What they may do.
        kept: What is kept of their password.
        by: Who adds them.

    Raises:
        Refused: If the name cannot be one, or somebody has it.
    """
    if not (_NAME.fullmatch(name) and name.isprintable()):
        raise Refused(f"{name[:LONGEST]!r} cannot be a name: give 1 to {LONGEST} characters without a space")
    made = upsert(User).values(name=name, role=role, password=kept).on_conflict_do_nothing().returning(User.id)
    if connection.execute(made).scalar() is None:
        raise Refused(f"there is a user {name} already: `headrace users list` shows them")
    record(connection, by=by, action="users add", target=name, details={"role": role})


def disable_user(connection: Connection, name: str, *, by: str) -> bool:
    """Let a user in no more, and end what they have open. Returns False if it is so already."""
    user = find_user(connection, name)
    closed = update(User).where(User.id == user.id, User.disabled_at.is_(None)).values(disabled_at=func.now())
    ended = _end_sign_ins(connection, user.id)
    return _changed(connection, closed, by=by, action="users disable", user=user, details={"sign_ins": ended})


def enable_user(connection: Connection, name: str, *, by: str) -> bool:
    """Let a user in again; their tokens that were not revoked work again. Returns False if it is so already."""
    user = find_user(connection, name)
    opened = update(User).where(User.id == user.id, User.disabled_at.is_not(None)).values(disabled_at=null())
    return _changed(connection, opened, by=by, action="users enable", user=user)


def give_role(connection: Connection, name: str, role: Role, *, by: str) -> bool:
    """Give a user another role, from their next request on. Returns False if it is so already."""
    user = find_user(connection, name)
    given = update(User).where(User.id == user.id, User.role != role).values(role=role)
    details = {"before": user.role, "after": role}
    return _changed(connection, given, by=by, action="users role", user=user, details=details)


def give_password(connection: Connection, name: str, kept: str, *, by: str) -> None:
    """Give a user another password, and end what they have open in browsers."""
    user = find_user(connection, name)
    given = update(User).where(User.id == user.id).values(password=kept)
    ended = _end_sign_ins(connection, user.id)
    _changed(connection, given, by=by, action="users password", user=user, details={"sign_ins": ended})


def issue_token(connection: Connection, name: str, purpose: str, *, by: str) -> str:
    """Make a token with which a program acts as this user; it is not kept and cannot be shown again.

    Raises:
        Refused: If there is no such user, or the purpose says nothing.
    """
    user, purpose = find_user(connection, name), " ".join(purpose.split())
    if not (1 <= len(purpose) <= LONGEST and purpose.isprintable()):
        raise Refused(f"say in 1 to {LONGEST} characters what the token is for")
    token = tickets.draw(tickets.TOKEN)
    made = insert(ApiToken).values(user_id=user.id, purpose=purpose, digest=tickets.digest(token))
    number = connection.execute(made.returning(ApiToken.id)).scalar_one()
    record(connection, by=by, action="users token", target=user.name, details={"number": number, "for": purpose})
    return token


def revoke_token(connection: Connection, number: int, *, by: str) -> bool:
    """Make a token useless. Returns False if it is so already.

    Raises:
        Refused: If there is no such token.
    """
    named = select(ApiToken.purpose, User.name).join(User, User.id == ApiToken.user_id).where(ApiToken.id == number)
    token = connection.execute(named).one_or_none()
    if token is None:
        raise Refused(f"there is no token {number}: `headrace users tokens` lists them")
    revoked = update(ApiToken).where(ApiToken.id == number, ApiToken.revoked_at.is_(None))
    if not connection.execute(revoked.values(revoked_at=func.now())).rowcount:
        return False
    details = {"number": number, "for": token.purpose}
    record(connection, by=by, action="users revoke", target=token.name, details=details)
    return True


def find_user(connection: Connection, name: str) -> Any:
    """Return a user's row.

    Raises:
        Refused: If there is none of this name, however it is typed.
    """
    found = connection.execute(select(User.__table__).where(is_called(name))).one_or_none()
    if found is None:
        require_known("user", name, set(connection.execute(select(User.name).limit(1_000)).scalars()))
    return found


def is_called(name: str) -> ColumnElement[bool]:
    """Return what the row of a user of this name satisfies."""
    return func.lower(User.name) == func.lower(name.replace("\x00", " "))


def _end_sign_ins(connection: Connection, user_id: int) -> int:
    return connection.execute(delete(SignIn).where(SignIn.user_id == user_id)).rowcount


def _changed(
    connection: Connection, change: Any, *, by: str, action: str, user: Any, details: dict[str, Any] | None = None
) -> bool:
    if not connection.execute(change).rowcount:
        return False
    record(connection, by=by, action=action, target=user.name, details=details)
    return True
