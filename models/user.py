"""Who may see and do what: users with a role, the browsers they signed in with, and tokens for their programs.

Nothing here can be used by whoever reads it: a password is kept as an argon2id hash, and of the random secret in a
cookie or a token only its SHA-256. What ends a user ends all that was given to them, because every question goes
through the user's row.
"""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, Integer, LargeBinary, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base


class Role(StrEnum):
    """What a user may do; each role may all that the ones before it may."""

    #: Looks.
    VIEWER = "viewer"
    #: Acts on runs, queues and whatever else there is.
    OPERATOR = "operator"
    #: Also decides who may do what.
    ADMIN = "admin"

    def covers(self, needed: "Role") -> bool:
        """Return whether it may what the other one may."""
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(needed)


class User(Base):
    """A person, or a program with a name of its own. Never removed: the audit speaks of them."""

    __tablename__ = "users"
    __table_args__ = (
        # One person, however they type their name.
        Index("users_name", text("lower(name)"), unique=True),
        CheckConstraint(f"role IN ({', '.join(repr(str(role)) for role in Role)})", "role"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: What they sign in with, as it was first typed; an address of e-mail or a plain name.
    name: Mapped[str]
    role: Mapped[str]
    #: Argon2id, with its parameters and salt.
    password: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: Set while they may not come in; what they had open ends at once.
    disabled_at: Mapped[datetime | None]


class SignIn(Base):
    """One browser that a user signed in with."""

    __tablename__ = "sign_ins"
    __table_args__ = (Index("sign_ins_user", "user_id"),)

    #: SHA-256 of the secret in the cookie.
    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: Last request, to the minute.
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: Its end, however busy it is.
    expires_at: Mapped[datetime]


class ApiToken(Base):
    """A secret with which a program acts as a user."""

    __tablename__ = "api_tokens"
    __table_args__ = (Index("api_tokens_user", "user_id"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    #: What it is for, in words.
    purpose: Mapped[str]
    #: SHA-256 of the token.
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: Last request, to the minute.
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class WrongPassword(Base):
    """Passwords that were wrong lately, counted by who was tried and from where."""

    __tablename__ = "wrong_passwords"

    #: SHA-256 of the name that was typed, for people type passwords there too; empty for all names of an address.
    name: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    #: Address of the client; of IPv6 its network of 64 bits.
    address: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(Integer, server_default="1")
    #: When the count began.
    since: Mapped[datetime] = mapped_column(server_default=func.now())
