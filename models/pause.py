"""A pause of a job, of a key, or of one key of one job. Pauses of whole queues are in `queues`."""

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models._base import Base, Pausable


class Pause(Pausable, Base):
    """One pause, also after its end while its ramp lasts; an empty name stands for all."""

    __tablename__ = "pauses"
    __table_args__ = (CheckConstraint("job <> '' OR key <> ''", "names_something"),)

    job: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
