"""A payment as Stripe last showed it.

An event is only a hint: the object is fetched, and the snapshot with the higher observation number stays. The number
is drawn from the database before the fetch, so no clock is compared and the order of delivery does not matter.
"""

from datetime import datetime

from sqlalchemy import CHAR, Identity, Sequence
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base, Kept

#: Drawn before each fetch; gaps are harmless.
OBSERVATIONS = Sequence("observations", metadata=Base.metadata)


class Payment(Kept, Base):
    """One payment intent."""

    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: `pi_...`
    source_id: Mapped[str] = mapped_column(unique=True)
    status: Mapped[str]
    #: In minor units of `currency`.
    amount: Mapped[int]
    amount_received: Mapped[int]
    currency: Mapped[str] = mapped_column(CHAR(3))
    #: Number of the observation this snapshot came from.
    observation: Mapped[int]
    observed_at: Mapped[datetime]
