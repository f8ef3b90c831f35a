"""One question to one part of the system, with a deadline and never twice at the same time.

A server that hangs must not hang whoever asks how it is. So a question runs on a thread of its own and the asker waits
a moment; while an old one is still unanswered no second one is sent, and the part counts as silent.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Unanswered
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Generic, TypeVar

from workers.logs import redact_text

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Silence:
    """A part did not answer, or answered with an error."""

    #: One line, free of secrets.
    reason: str
    #: Answers in a row that came too late; 0 when it refused or failed.
    late: int = 0


class Question(Generic[T]):
    """A question that may be asked again and again.

    Args:
        ask: Asks it; whatever it raises is the part's silence.
    """

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._lock = Lock()
        self._under_way: Future[T] | None = None
        self._late = 0

    def put(self) -> None:
        """Ask, unless the last question is still unanswered."""
        with self._lock:
            if self._under_way is None or self._under_way.done():
                self._under_way = Future()
                # A daemon: a part that never answers shall not keep the process from ending.
                Thread(target=self._carry, args=(self._under_way,), name="question", daemon=True).start()

    def answer(self, until: float) -> T | Silence:
        """Wait for the answer.

        Args:
            until: Moment of `time.monotonic()` after which the part counts as silent.
        """
        with self._lock:
            asked = self._under_way
        if asked is None:
            return Silence("it was not asked")
        try:
            answer = asked.result(max(0.0, until - time.monotonic()))
        except Unanswered:
            self._late += 1
            return Silence("no answer in time", self._late)
        except Exception as error:  # noqa: BLE001 - every kind of failure means the same here: it does not answer
            return Silence(_reason(error))
        self._late = 0
        return answer

    def _carry(self, future: Future[T]) -> None:
        try:
            future.set_result(self._ask())
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            future.set_exception(error)


def _reason(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return redact_text(lines[0])[:200] if lines else type(cause).__name__
