"""The warehouse is told what our orders take, give back and have shipped.

    note    with the order      write down what the warehouse does not know of it yet, in the same transaction
    decide  one transaction     take all that is open of a level together, under a key that is kept
    ask     POST                the same request for the same key, however often it is tried
    hear    one transaction     the level as it is now, what was told, and what has left

A request says which version of the level it was decided upon. If the warehouse has a later one it does nothing: then
the level is fetched and written here, what is open by then is taken together anew, under a new key. It is also what
makes an old key harmless: a request that was overtaken can not be carried out any more, whenever it arrives.

Nothing counts twice. `on_hand` moves here only by states of the warehouse, each of which has one name in the ledger
whoever brings it first: this answer, a webhook or a walk. What has left stays reserved until that state is here. What
the warehouse reserves for us is counted once, as ours: `told` says how much of its figure that is. It is lowered before
we ask for less and raised after we were given more, so at no moment more is for sale than there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from integrations import NotFound, Rejected
from integrations.warehouse import Change, LevelItem, Warehouse
from jobs._context import Context
from jobs._signals import Snooze
from jobs._stock import News, apply_levels, twice
from jobs._sweep import SCOPE

#: Requests in a row that may come too late before the level is left in peace for a while, in seconds.
MOST_ROUNDS = 10
PEACE = 5.0

# What the warehouse should have been told of an order, less what was noted already.
NOTE = text("""
    WITH wanted AS (
        SELECT r.level_id,
               sum(r.quantity) FILTER (WHERE r.state IN ('held', 'committed') AND f.handed_at IS NULL) AS reserved,
               -sum(r.quantity) FILTER (WHERE r.state <> 'released' AND f.handed_at IS NOT NULL) AS on_hand
        FROM order_lines o JOIN reservations r ON r.order_line_id = o.id
        LEFT JOIN fulfilments f ON f.order_id = o.order_id
        WHERE o.order_id = :order_id GROUP BY r.level_id
    ), noted AS (
        SELECT level_id, sum(reserved) AS reserved, sum(on_hand) AS on_hand FROM stock_adjustments
        WHERE order_id = :order_id AND deleted_at IS NULL GROUP BY level_id
    ), news AS (
        SELECT level_id, coalesce(w.reserved, 0) - coalesce(n.reserved, 0) AS reserved,
               coalesce(w.on_hand, 0) - coalesce(n.on_hand, 0) AS on_hand
        FROM wanted w LEFT JOIN noted n USING (level_id)
    )
    INSERT INTO stock_adjustments (level_id, order_id, reserved, on_hand)
    SELECT level_id, :order_id, reserved, on_hand FROM news WHERE (reserved, on_hand) <> (0, 0)
    RETURNING level_id
""")

LOCK = text(f"""
    SELECT id, source_id, source_version, deleted_at IS NOT NULL OR NOT ({SCOPE["stock_levels"]}) AS gone
    FROM stock_levels WHERE id = :level_id FOR NO KEY UPDATE
""")
_OPEN = "level_id = :level_id AND told_at IS NULL AND deleted_at IS NULL"
ASKED = text(f"""
    SELECT asked_key AS key, asked_version AS version, asked_at, sum(on_hand)::bigint AS on_hand,
           sum(reserved)::bigint AS reserved, count(DISTINCT order_id) AS orders
    FROM stock_adjustments WHERE asked_key IS NOT NULL AND {_OPEN} GROUP BY 1, 2, 3
""")
TAKE = text(f"""
    WITH taken AS (
        UPDATE stock_adjustments SET asked_key = :key, asked_version = :version, asked_at = now(), updated_at = now()
        WHERE asked_key IS NULL AND {_OPEN} RETURNING reserved
    )
    UPDATE stock_levels SET told = told + least((SELECT sum(reserved) FROM taken), 0)
    WHERE id = :level_id AND EXISTS (SELECT 1 FROM taken)
""")
# Nothing was done: it is open as before, and what we asked to be given back is still kept for us.
PUT_BACK = text("""
    WITH back AS (
        UPDATE stock_adjustments SET asked_key = NULL, asked_version = NULL, asked_at = NULL, updated_at = now()
        WHERE asked_key = :key AND told_at IS NULL AND deleted_at IS NULL RETURNING reserved
    )
    UPDATE stock_levels SET told = told - least((SELECT sum(reserved) FROM back), 0)
    WHERE id = :level_id AND EXISTS (SELECT 1 FROM back)
""")
TOLD = text("""
    UPDATE stock_adjustments SET told_at = now(), updated_at = now()
    WHERE asked_key = :key AND told_at IS NULL AND deleted_at IS NULL RETURNING order_id, on_hand, reserved
""")
GIVEN = text("UPDATE stock_levels SET told = told + greatest(CAST(:reserved AS bigint), 0) WHERE id = :level_id")
# The warehouse keeps nothing for us on a level that it does not have. What has left has left.
FORGET = text("""
    WITH forgotten AS (
        UPDATE stock_adjustments SET deleted_at = now(), updated_at = now()
        WHERE level_id = :level_id AND deleted_at IS NULL AND on_hand = 0
    ), shipped AS (
        UPDATE stock_adjustments SET reserved = 0, told_at = coalesce(told_at, now()), updated_at = now()
        WHERE level_id = :level_id AND deleted_at IS NULL AND on_hand <> 0 RETURNING order_id
    ), nothing AS (
        UPDATE stock_levels SET told = 0 WHERE id = :level_id
    ) SELECT order_id FROM shipped
""")
SHIP = text("""
    WITH shipped AS (
        UPDATE reservations SET state = 'shipped', updated_at = now()
        WHERE level_id = :level_id AND state = 'committed'
          AND order_line_id IN (SELECT id FROM order_lines WHERE order_id = ANY(:orders))
        RETURNING quantity
    )
    UPDATE stock_levels SET reserved = reserved - (SELECT sum(quantity) FROM shipped), version = version + 1,
                            updated_at = now()
    WHERE id = :level_id AND EXISTS (SELECT 1 FROM shipped)
""")


@dataclass(frozen=True)
class Question:
    """One request, decided and kept: asking it again is asking the same."""

    level_id: int
    source_id: str
    #: We know already that the warehouse does not have the level, or not any more.
    gone: bool
    key: str
    version: int
    asked_at: datetime
    on_hand: int
    reserved: int
    orders: int

    @property
    def change(self) -> Change:
        """What the warehouse is asked to do."""
        return Change(
            key=self.key,
            level_id=self.source_id,
            on_hand=self.on_hand,
            reserved=self.reserved,
            reason=f"{self.orders} order{'' if self.orders == 1 else 's'}",
            occurred_at=self.asked_at,
            expected_version=self.version,
        )


def note(session: Session, order_id: int) -> list[int]:
    """Write down what the warehouse does not know of an order yet, and return the levels, in order.

    The order's row is locked, or new in this transaction.
    """
    return sorted(session.scalars(NOTE, {"order_id": order_id}))


def tell(context: Context, level_id: int) -> dict[str, Any]:
    """Tell the warehouse all that is open of a level.

    Raises:
        Snooze: The level changes faster than it can be told; it is tried again soon.
        IntegrationError: See `integrations._errors`; the same is asked next time.
    """
    counts = {"told": 0, "stale": 0, "gone": 0}
    for _ in range(MOST_ROUNDS):
        context.check()
        with context.transaction() as session:
            question = decide(session, level_id)
        if question is None:
            return {"level": level_id, **counts}
        counts[_ask(context, question)] += 1
    raise Snooze(PEACE, f"level {level_id} changes faster than the warehouse can be told: it is told again soon")


def decide(session: Session, level_id: int) -> Question | None:
    """Return the request that is under way for a level, or make one of all that is open; None if there is nothing."""
    level = _lock(session, level_id)
    asked = session.execute(ASKED, {"level_id": level_id}).one_or_none()
    if asked is None:
        key = f"adjustment:{uuid4().hex}"
        session.execute(TAKE, {"level_id": level_id, "key": key, "version": level.source_version})
        asked = session.execute(ASKED, {"level_id": level_id}).one_or_none()
    if asked is None:
        return None
    return Question(level.id, level.source_id, level.gone, *asked)


def _lock(session: Session, level_id: int) -> Row[Any]:
    return session.execute(LOCK, {"level_id": level_id, "upstream": Warehouse.name}).one()


def _ask(context: Context, question: Question) -> str:
    """Ask, and write down what came of it: `told`, `stale` or `gone`."""
    if question.gone:
        return _forget(context, question)
    if not question.on_hand and not question.reserved:  # what was taken was given back before anybody was told
        return _hear(context, question, None)
    warehouse = context.use(Warehouse)
    try:
        return _hear(context, question, warehouse.adjust(question.change))
    except NotFound:
        return _forget(context, question)
    except Rejected as error:
        if error.code != "stale_version":
            raise
    return _look_again(context, warehouse, question)


def _hear(context: Context, question: Question, item: LevelItem | None) -> str:
    def write(session: Session) -> str:
        _lock(session, question.level_id)
        _keep(session, context, item)
        rows = session.execute(TOLD, {"key": question.key}).all()
        reserved = sum(row.reserved for row in rows)
        session.execute(GIVEN, {"level_id": question.level_id, "reserved": reserved})
        _ship(session, question.level_id, [row.order_id for row in rows if row.on_hand])
        return "told"

    return twice(context, write)


def _look_again(context: Context, warehouse: Warehouse, question: Question) -> str:
    try:
        item = warehouse.level(question.source_id)
    except NotFound:
        return _forget(context, question)

    def write(session: Session) -> str:
        _lock(session, question.level_id)
        _keep(session, context, item)
        session.execute(PUT_BACK, {"level_id": question.level_id, "key": question.key})
        return "stale"

    return twice(context, write)


def _forget(context: Context, question: Question) -> str:
    with context.transaction() as session:
        _lock(session, question.level_id)
        _ship(session, question.level_id, session.scalars(FORGET, {"level_id": question.level_id}).all())
    context.log(f"the warehouse does not have level {question.source_id}: it is told nothing of it")
    return "gone"


def _keep(session: Session, context: Context, item: LevelItem | None) -> None:
    applied = apply_levels(session, [item] if item else [], News("answer", context.run_id))
    for misfit in applied.misfits:
        context.log(f"the warehouse answered with level {misfit.external_id}, and {misfit.reason}")


def _ship(session: Session, level_id: int, orders: Sequence[int]) -> None:
    session.execute(SHIP, {"level_id": level_id, "orders": list(orders)})
