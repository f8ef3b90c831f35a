"""Life in the stores: the year's real sales replayed as stock changes, with what else happens in a warehouse.

Each sale line takes its quantity off the shelf, below zero if need be. An empty shelf is sooner or later filled,
prices move now and then, and something is taken out of the assortment; once one product in fifty is gone, the first
one to go comes back. After the last sale of the year the year begins again.
"""

import asyncio
import random
from collections import deque
from time import monotonic

from sandbox.upstreams.warehouse import Warehouse

_TICK_S = 0.1
_CASE = 12
_PRICE_CHANGE_EVERY = 40
_DELETION_EVERY = 400
_GONE_AT_MOST = 50


class Live:
    """Replays sales on demand (`sell`) and on its own at `rate` lines per second (0: not at all)."""

    def __init__(self, warehouse: Warehouse, seed: int, rate: float) -> None:
        self._warehouse = warehouse
        self._random = random.Random(seed)
        self._gone: deque[int] = deque()
        self._due = 0.0
        self.rate = rate
        self.sold = 0

    def sell(self, count: int) -> int:
        """Replay the next `count` sale lines now; tell how many that were."""
        for _ in range(count):
            self._sell_one()
            self.sold += 1
            if self.sold % _PRICE_CHANGE_EVERY == 0:
                self._move_a_price()
            if self.sold % _DELETION_EVERY == 0:
                self._thin_out(whole_product=self.sold % (2 * _DELETION_EVERY) == 0)
        return count

    async def run(self) -> None:
        """Keep selling at the present rate, for ever."""
        before = monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            now = monotonic()
            self._due += self.rate * (now - before)
            before = now
            whole = int(self._due)
            self._due -= whole
            self.sell(whole)

    def _sell_one(self) -> None:
        sales = self._warehouse.sales
        line = self.sold % len(sales)
        level = sales.products[line] * len(self._warehouse.stores) + sales.stores[line]
        if self._warehouse.levels.deleted[level]:
            return
        self._warehouse.adjust(level, -sales.quantities[line])
        if self._warehouse.on_hand[level] <= 0 and self._random.random() < 1 / 2:
            arrived = max(self._warehouse.incoming[level], _CASE * self._random.randint(1, 4))
            self._warehouse.set_level(level, on_hand=self._warehouse.on_hand[level] + arrived, incoming=0)

    def _move_a_price(self) -> None:
        number = self._random.randrange(len(self._warehouse.products))
        cents = self._warehouse.goods[number].cents
        if cents is not None and not self._warehouse.products.deleted[number]:
            self._warehouse.edit_product(number, cents=max(1, round(cents * self._random.uniform(0.8, 1.25))))

    def _thin_out(self, *, whole_product: bool) -> None:
        if not whole_product:
            self._warehouse.delete_level(self._random.randrange(len(self._warehouse.levels)))
            return
        number = self._random.randrange(len(self._warehouse.products))
        if number not in self._gone:
            self._warehouse.delete_product(number)
            self._gone.append(number)
        if len(self._gone) > len(self._warehouse.products) // _GONE_AT_MOST:
            self._warehouse.edit_product(self._gone.popleft())
