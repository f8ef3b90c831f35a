"""A channel: a way to tell people or their systems of an alert.

Each channel is an integration like any other, in a module of its own. What is to be said is the same for all; how it is
written, and what a receiver needs to recognise a repeat, is the channel's own affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from integrations._integration import Integration


@dataclass(frozen=True, slots=True)
class Notice:
    """One message about an alert."""

    id: str
    """Names the message: the same each time it is tried, and in no other installation."""
    thread: str
    """The id of the message with which the matter began; equal to ``id`` in that one."""
    kind: str
    """What it is about, in one word: ``late``."""
    subject: str
    """What it happened to: a queue, a schedule, a job."""
    sentence: str
    """What is the case and what to do about it; one line."""
    opened_at: datetime
    resolved_at: datetime | None = None
    """When it was over; None while it is not."""

    @property
    def what(self) -> str:
        """What happened to the alert: ``opened`` or ``resolved``."""
        return "opened" if self.resolved_at is None else "resolved"

    @property
    def headline(self) -> str:
        """A few words for a subject line."""
        return " ".join(f"{'Resolved' if self.resolved_at else 'Alert'}: {self.kind}, {self.subject}".split())

    @property
    def body(self) -> str:
        """The whole matter in a sentence or two."""
        if self.resolved_at is None:
            return self.sentence
        return f"It is over since {told(self.resolved_at)}. The last that was seen: {self.sentence}"


class Channel(Integration):
    """An integration that carries notices."""

    rate: ClassVar[None] = None

    def tell(self, notice: Notice) -> list[str]:
        """Deliver a notice; return whom it did not reach although it reached others.

        Raises:
            IntegrationError: It reached nobody; the error decides whether it is tried again.
        """
        raise NotImplementedError(f"{type(self).__name__} tells nobody: write tell() in its module.")


def told(moment: datetime) -> str:
    """Say a moment in UTC, to the second."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
