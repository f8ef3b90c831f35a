"""A connection to RabbitMQ that one thread turns by hand.

pika's blocking connection waits for the broker after every single publish, and its other one wants to own the thread.
This is the latter, turned only while we wait for something: so a thousand publishes are sent at once and confirmed
together, and a consumer is woken by its first message. Whatever ends the connection or a channel of it is kept as its
trouble, and raised at the next turn.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel
from pika.exceptions import AMQPError

from workers.delivery._contract import BrokerAway

NAME = "RabbitMQ"
#: Seconds an answer may take to come, and a farewell.
PATIENCE = 10.0
FAREWELL = 1.0


class Line:
    """One open connection.

    Args:
        servers: Where to connect: the first that answers is taken.

    Raises:
        BrokerAway: If none does.
    """

    def __init__(self, servers: Sequence[pika.ConnectionParameters]) -> None:
        for server in servers:
            self._trouble: str | None = None
            self._loop = IOLoop()
            self._loop.activate_poller()
            self._connection = SelectConnection(
                server, on_open_error_callback=self._ended, on_close_callback=self._ended, custom_ioloop=self._loop
            )
            with suppress(BrokerAway):
                self.await_(lambda: self._connection.is_open)
                return
            self.close()
        raise BrokerAway(NAME, self._trouble or "it did not answer in time")

    def channel(self) -> Channel:
        """Open a channel; should it ever be closed, the line is in trouble."""
        channel: Channel = self.ask(lambda callback: self._connection.channel(on_open_callback=callback))
        channel.add_on_close_callback(self._ended)
        channel.add_on_cancel_callback(lambda _: self._ended(channel, "somebody removed the queue"))
        return channel

    def ask(self, send: Callable[..., object], *arguments: Any, **options: Any) -> Any:
        """Send something that takes a `callback`, and return what that is called with."""
        answers: list[Any] = []
        send(*arguments, callback=answers.append, **options)
        self.await_(lambda: answers)
        return answers[0]

    def await_(self, happened: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Turn until something has happened.

        Raises:
            BrokerAway: If it takes too long, or the line breaks.
        """
        if not self.turn(happened, seconds):
            raise BrokerAway(NAME, "no answer in time")

    def turn(self, happened: Callable[[], object], seconds: float) -> bool:
        """Send and receive until something has happened or time is up; return which."""
        deadline = time.monotonic() + seconds
        alarm = self._loop.call_later(seconds, lambda: None)  # or the loop would sleep past the deadline
        try:
            while not happened():
                self._step()
                if time.monotonic() >= deadline:
                    return bool(happened())
        finally:
            self._loop.remove_timeout(alarm)
        return True

    def flush(self) -> None:
        """Send what is ready and take what has arrived, without waiting."""
        self.turn(lambda: False, 0)

    def close(self) -> None:
        """Hang up; what was fetched and not acknowledged is delivered again."""
        with suppress(AMQPError, BrokerAway, OSError):
            if self._connection.is_open:
                self._connection.close()
                self.turn(lambda: self._connection.is_closed, FAREWELL)
        with suppress(AMQPError, OSError):
            self._loop.deactivate_poller()
            self._loop.close()

    def _step(self) -> None:
        if self._trouble is not None:
            raise BrokerAway(NAME, self._trouble)
        try:
            self._loop.poll()
            self._loop.process_timeouts()
        except (AMQPError, OSError) as error:
            raise BrokerAway(NAME, error) from None

    def _ended(self, ended: object, why: BaseException | str) -> None:
        del ended
        self._trouble = self._trouble or str(_cause(why)) or type(why).__name__


def _cause(why: BaseException | str) -> BaseException | str:
    """Return what pika has wrapped in errors that say nothing by themselves."""
    inner = [*getattr(why, "exceptions", ()), *getattr(why, "args", ()), getattr(why, "exception", None)]
    causes = [cause for cause in inner if isinstance(cause, BaseException)]
    return _cause(causes[-1]) if causes else why
