"""How the ids of due runs reach the workers: through Redis, its Sentinels, a cluster of it, or RabbitMQ.

The ledger decides and the broker only carries, so a broker need not be faithful: it may lose messages and deliver them
twice. What it must do is stated once, by `Delivery`, and the contract test beside the tests of this folder holds every
transport to it. Which one is used is read off the address, here and nowhere else.
"""

from workers.address import Address
from workers.delivery._contract import BrokerAway, Delivery, Queued, encode
from workers.delivery._rabbitmq import SCHEMES as RABBITMQ
from workers.delivery._rabbitmq import RabbitDelivery
from workers.delivery._redis import NAMESPACE, RedisDelivery
from workers.redis_servers import PATIENCE

__all__ = [
    "NAMESPACE",
    "RABBITMQ",
    "BrokerAway",
    "Delivery",
    "Queued",
    "RabbitDelivery",
    "RedisDelivery",
    "encode",
    "through",
]


def through(url: str, patience: float = PATIENCE) -> Delivery:
    """Return a delivery through the broker at this address, for one thread; nothing is connected yet.

    Args:
        url: Where the broker is.
        patience: Seconds that Redis may take to connect and to answer; RabbitMQ, which writes to disk, has its own.

    Raises:
        ValueError: If the address has an option that the broker's client does not understand.
    """
    address = Address.parse(url)
    return RabbitDelivery(address) if address.scheme in RABBITMQ else RedisDelivery.to(url, patience)
