"""The load: transactions that enqueue runs of every sort, some of which are rolled back on purpose.

Whether a transaction was committed is asked of nobody: `asked` is written in the same one, so the table knows, also
when a connection was cut between the commit and its answer. The mark of a run that is rolled back on purpose says so,
and must never be seen again.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from threading import Event, Thread

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tests.chaos import work
from tests.chaos.invariants import UNDONE

TENANTS, SKUS, SUBJECTS = 6, 12, 5
#: Runs of a transaction, at most.
ONE_BY_ONE, IN_BULK = 12, 30
#: Of the transactions, and seconds between two attempts while Postgres is away.
UNDONE_SHARE = 0.08
PAUSE = 0.2

Order = dict[str, object]
ORDER = text("INSERT INTO asked (run_id, mark, not_before) VALUES (:run_id, :mark, :not_before)")


class ChangedItsMind(Exception):  # noqa: N818 - says what it is
    """The caller rolls back."""


class Producer:
    """Enqueues until it is told to stop.

    Args:
        sessions: Sessions that announce what they commit, as those of any process of ours do.
        seed: Seed of what is enqueued.
        rate: Runs per second; what an outage held up is made up for afterwards.
    """

    def __init__(self, sessions: sessionmaker[Session], seed: int, rate: float) -> None:
        self._sessions = sessions
        self._random = Random(seed)
        self._rate = rate
        self._number = 0
        self._stopping = Event()
        self._thread = Thread(target=self._produce, name="producer", daemon=True)
        self.undone = self.refused = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the transaction that is under way."""
        self._stopping.set()
        self._thread.join()

    def _produce(self) -> None:
        began = time.monotonic()
        while not self._stopping.wait(max(0.0, began + self._number / self._rate - time.monotonic())):
            before = self._number
            try:
                self._transaction(undone=self._random.random() < UNDONE_SHARE)
            except ChangedItsMind:
                self.undone += self._number - before
            except SQLAlchemyError:
                self.refused += 1
                self._stopping.wait(PAUSE)

    def _transaction(self, *, undone: bool) -> None:
        """Enqueue some runs one by one and some in bulk, and note them, all or nothing."""
        prefix = UNDONE if undone else "mark "
        with self._sessions.begin() as session:
            orders = [self._one(session, prefix) for _ in range(self._random.randint(1, ONE_BY_ONE))]
            orders += self._many(session, prefix, self._random.randint(0, IN_BULK))
            session.execute(ORDER, orders)
            if undone:
                raise ChangedItsMind

    def _one(self, session: Session, prefix: str) -> Order:
        mark = self._mark(prefix)
        sort: Callable[[Session, str], Order] = self._random.choices(
            [self._once, self._later, self._shaky, self._shared, self._serial, self._single],
            weights=[20, 10, 20, 20, 20, 10],
        )[0]
        return sort(session, mark)

    def _many(self, session: Session, prefix: str, how_many: int) -> list[Order]:
        marks = [self._mark(prefix) for _ in range(how_many)]
        run_ids = work.once.enqueue_many(session, [{"mark": mark} for mark in marks])
        return [_order(run_id, mark) for run_id, mark in zip(run_ids, marks, strict=True)]

    def _mark(self, prefix: str) -> str:
        self._number += 1
        return f"{prefix}{self._number}"

    def _once(self, session: Session, mark: str) -> Order:
        return _order(work.once.enqueue(session, mark=mark, seconds=self._random.choice([0, 0.01, 0.2, 0.5])), mark)

    def _later(self, session: Session, mark: str) -> Order:
        due = datetime.now(UTC) + timedelta(seconds=self._random.uniform(0.5, 8))
        return _order(work.once.options(due_at=due).enqueue(session, mark=mark), mark, due)

    def _shaky(self, session: Session, mark: str) -> Order:
        return _order(work.shaky.enqueue(session, mark=mark, chance=0.4), mark)

    def _shared(self, session: Session, mark: str) -> Order:
        tenant = f"tenant {self._random.randrange(TENANTS)}"
        seconds = self._random.choice([0, 0.01, 0.03])
        return _order(work.shared.enqueue(session, mark=mark, tenant=tenant, seconds=seconds), mark)

    def _serial(self, session: Session, mark: str) -> Order:
        sku = f"sku {self._random.randrange(SKUS)}"
        return _order(work.serial.enqueue(session, mark=mark, sku=sku, number=self._number), mark)

    def _single(self, session: Session, mark: str) -> Order:
        subject = f"subject {self._random.randrange(SUBJECTS)}"
        return _order(work.single.enqueue(session, mark=mark, subject=subject), mark)


def _order(run_id: int, mark: str, not_before: datetime | None = None) -> Order:
    return {"run_id": run_id, "mark": mark, "not_before": not_before}
