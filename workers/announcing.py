"""Telling the broker right after the commit, so that a run starts within milliseconds and not at the relay's next look.

The session knows which runs it wrote. Once they are committed, those that share no limits are pushed at once; for the
others a relay is woken, which alone may count, and for all of them where the threads that commit cannot share one way
to the broker. None of it is needed for anything to be done: the relay finds what was
not announced. So an announcement never raises, waits briefly, and after a failure is left to the relay for a while.
"""

import time

from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from jobs import WRITTEN, Written
from workers import logs
from workers.bell import Bell
from workers.delivery import BrokerAway, Delivery

#: Runs of one transaction that are pushed at once; of more, the relay takes care in its own order.
MOST = 100
#: Seconds without announcements after one that failed.
REST = 5.0


class Announcer:
    """Announces what sessions commit.

    Args:
        delivery: A way to the broker, with little patience.
        bell: The relays' bell, with little patience.
    """

    def __init__(self, delivery: Delivery, bell: Bell) -> None:
        self._delivery = delivery
        self._bell = bell
        self._rests_until = 0.0

    def listen(self, sessions: sessionmaker[Session]) -> None:
        """Announce whatever sessions of this maker commit from now on."""
        event.listen(sessions, "after_commit", self._committed)
        event.listen(sessions, "after_rollback", _forget)

    def _committed(self, session: Session) -> None:
        written: list[Written] = session.info.pop(WRITTEN, [])
        if written and time.monotonic() >= self._rests_until:
            self._announce(written)

    def _announce(self, written: list[Written]) -> None:
        free = [run for run in written if not run.limited and self._delivery.shared]
        try:
            if len(free) <= MOST:
                self._delivery.push((run.queue, run.job, run.run_id, False) for run in free)
            if len(free) > MOST or len(free) < len(written):
                self._bell.ring()
        except BrokerAway as error:
            self._rests_until = time.monotonic() + REST
            logs.get().info(f"left to the relay: {error.broker} is away", runs=len(written), reason=str(error))


def _forget(session: Session) -> None:
    session.info.pop(WRITTEN, None)
