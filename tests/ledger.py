"""The stock ledger, added up independently of the code that is tested."""

from sqlalchemy import text
from sqlalchemy.orm import Session

WRONG = text("""
    SELECT source_id FROM stock_levels l WHERE on_hand <>
        (SELECT coalesce(sum(delta), 0) FROM stock_movements m WHERE m.level_id = l.id)
""")


def wrong_levels(session: Session) -> list[str]:
    """Return the levels whose movements do not add up to what is on hand."""
    return list(session.scalars(WRONG))
