"""The bell that wakes a relay: something became due, or a key has room again.

A relay that found nothing to do waits a moment before it looks again. Whoever knows better rings, so that a run that
shares limits starts when its turn comes and not at the next look. Nothing depends on it: a bell that nobody hears only
costs that moment. It hangs in Redis whatever carries the runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from workers.delivery import NAMESPACE, BrokerAway

#: Rings that wait to be heard; one relay hears each.
MOST_RINGS = 4
_KEY = f"{NAMESPACE}:relay.bell"
_RING = "if redis.call('llen', KEYS[1]) < tonumber(ARGV[1]) then redis.call('rpush', KEYS[1], '1') end"


class Bell:
    """One bell for all relays.

    Args:
        client: A Redis client without hidden retries.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._ring = client.register_script(_RING)

    def ring(self) -> None:
        """Wake a relay.

        Raises:
            BrokerAway: Redis is away.
        """
        with _answering():
            self._ring(keys=[_KEY], args=[MOST_RINGS])

    def wait(self, seconds: float) -> bool:
        """Return when somebody rang, or after the given time; whether somebody did.

        Raises:
            BrokerAway: Redis is away.
        """
        with _answering():
            return self._client.blpop([_KEY], timeout=seconds) is not None


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise BrokerAway("Redis", error) from None
