"""Every call to the outside, told to whoever keeps a journal of the work that makes it.

    with recording(journal):                               # a worker, around one attempt
        with noted("stripe", "POST", "/v1/refunds") as call:   # a client, around one call
            call.status = 200

A call is told when it begins and when it ends. The journal may refuse a call that changes something by raising when it
begins: nothing is sent then. Outside of `recording` nobody is told. The journal belongs to the thread; one that a job
starts by itself is told of with `contextvars.copy_context().run`.

What is told can be shown to anybody: a path with its ids replaced, never a query, a body, a header or a credential.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

SAFE_METHODS = frozenset({"GET", "HEAD"})
"""What only reads."""

_WORD = re.compile(r"v\d+|\d{4}-\d{2}|(?=.{1,40}$)[a-z]{1,20}([-_.][a-z]{1,20})*")
"""A part of a path that names a kind of thing or a version, and not one thing."""


@dataclass(slots=True)
class Call:
    """One call under way, with all its tries; what is not known yet is empty."""

    upstream: str
    method: str
    template: str
    idempotency_key: str | None = None
    #: How often it was sent; 0 if it never left.
    tries: int = 0
    #: Of the last answer.
    status: int | None = None
    #: The upstream's own name for the last try.
    request_id: str | None = None
    #: The class of what went wrong.
    error: str | None = None
    #: With the waits between tries.
    seconds: float | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def reads(self) -> bool:
        """Whether it changes nothing there."""
        return self.method in SAFE_METHODS


class Journal(Protocol):
    """Keeps the calls of one attempt; used by many threads at once if the job does so."""

    def began(self, call: Call) -> int:
        """Hear of a call that is about to be sent, and give it a number; what is raised keeps it from being sent."""

    def ended(self, place: int, call: Call) -> None:
        """Hear what came of it."""


JOURNAL: ContextVar[Journal | None] = ContextVar("journal", default=None)
"""The one that hears of calls of this thread."""


@contextmanager
def recording(journal: Journal) -> Iterator[None]:
    """Tell the journal of every call that this thread makes in the block."""
    token = JOURNAL.set(journal)
    try:
        yield
    finally:
        JOURNAL.reset(token)


@contextmanager
def noted(upstream: str, method: str, template: str, idempotency_key: str | None = None) -> Iterator[Call]:
    """Tell the journal, if there is one, of the call that the block makes.

    Args:
        upstream: The name of the integration.
        method: What is done, in the words of HTTP.
        template: To what, see :func:`template`.
        idempotency_key: What goes along with it.
    """
    call = Call(upstream, method, template, idempotency_key)
    journal = JOURNAL.get()
    if journal is None:
        yield call
        return
    place = journal.began(call)
    try:
        yield call
    except BaseException as error:
        call.error = type(error.__cause__ or error).__name__
        raise
    finally:
        call.seconds = time.monotonic() - call.began
        journal.ended(place, call)


def template(path: str) -> str:
    """Return a path with everything replaced that is not plainly a word of the API: `/v1/refunds/{id}`."""
    return "/".join(part if not part or _WORD.fullmatch(part) else "{id}" for part in path.split("/"))
