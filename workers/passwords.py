"""Passwords: how they are kept and tried.

A password is slow to try, on purpose: argon2id with what OWASP recommends at least (19 MiB, two passes, one lane),
some hundredths of a second. So only a few are tried at the same time; who comes on top of that is asked to come back,
and a flood of sign-ins costs the process a known amount of memory.
"""

from threading import BoundedSemaphore

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from workers import tickets

#: Passwords that one process tries at the same time, and seconds that one may wait for its turn.
AT_ONCE = 4
PATIENCE = 1.0
#: Characters that a chosen password has at least and at most.
SHORTEST, LONGEST = 12, 256

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class Busy(Exception):  # noqa: N818 - says what is the case
    """Too many passwords are being tried right now."""


def keep(password: str) -> str:
    """Return what is kept of a password."""
    return _hasher.hash(password)


class Prover:
    """Tries passwords, a few at the same time.

    Args:
        at_once: How many.
    """

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._turns = BoundedSemaphore(at_once)
        #: Tried where there is no such user: a wrong name takes as long as a wrong password.
        self._nobody = keep(tickets.draw())

    def right(self, kept: str | None, typed: str) -> bool:
        """Return whether this is the password; without one to compare with, take as long and say no.

        Raises:
            Busy: If it is not its turn in time.
        """
        if not self._turns.acquire(timeout=PATIENCE):
            raise Busy
        try:
            return _hasher.verify(kept or self._nobody, typed[: LONGEST + 1]) and kept is not None
        except VerificationError:
            return False
        finally:
            self._turns.release()
