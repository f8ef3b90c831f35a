"""The truth of the stand-in warehouse: its products, its stock levels, and every way they change.

Levels live in flat columns (a level is product x store), because all 92,331 products at 20 stores are 1.85 million of
them. Each change bumps version and time and is told to one listener as the webhook it deserves. Stock on hand may fall
below zero: tills do not ask the stock system for permission.
"""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from sandbox.upstreams import opening
from sandbox.upstreams.catalogue import Catalogue
from sandbox.upstreams.keyset import Keyset

Item = dict[str, Any]
Listener = Callable[[str, Item], None]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = 2**31 - 1


def iso(time_us: int) -> str:
    """Write µs since 1970 the way the contract does: `2026-11-23T05:00:00.123456Z`."""
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="microseconds").replace("+00:00", "Z")


_iso_of_ties = lru_cache(maxsize=4_096)(iso)


class Clock:
    """The upstream's own clock; `skew_s` sets it wrong on purpose."""

    def __init__(self) -> None:
        self.skew_s = 0.0

    def now_us(self) -> int:
        return time.time_ns() // 1_000 + int(self.skew_s * 1_000_000)


class Warehouse:
    """All products and levels. `listener` is called with (event type, item) after each change."""

    def __init__(self, catalogue: Catalogue, seed: int, clock: Clock) -> None:
        self.clock = clock
        self.goods = catalogue.products
        self.stores = catalogue.stores
        self.sales = catalogue.sales
        now_us = clock.now_us()
        stock = opening.stock(catalogue, seed, now_us)
        self.on_hand, self.reserved, self.incoming = stock.on_hand, stock.reserved, stock.incoming
        self.products = Keyset(opening.product_times(catalogue.products, seed, now_us))
        self.levels = Keyset(stock.updated)
        self.listener: Listener = lambda _type, _item: None
        self._product_at = {product.id: position for position, product in enumerate(self.goods)}
        self._by_sku = {product.sku: position for position, product in enumerate(self.goods)}
        self._store_at = {location_id(number): position for position, number in enumerate(self.stores)}

    # What there is.

    def product(self, number: int) -> Item:
        """Show one product as the contract does."""
        product = self.goods[number]
        return {
            "id": product.id,
            "sku": product.sku,
            "name": product.name,
            "brand": product.brand,
            "category": product.category,
            "price": None if product.cents is None else {"amount": product.cents, "currency": "USD"},
            **_change(self.products, number),
        }

    def level(self, number: int) -> Item:
        """Show one stock level as the contract does."""
        product, store = divmod(number, len(self.stores))
        on_hand, reserved = self.on_hand[number], self.reserved[number]
        return {
            "id": self.level_id(number),
            "sku": self.goods[product].sku,
            "location_id": location_id(self.stores[store]),
            "on_hand": on_hand,
            "reserved": reserved,
            "available": on_hand - reserved,
            "incoming": self.incoming[number],
            **_change(self.levels, number),
        }

    def level_id(self, number: int) -> str:
        """Name a level by its product and store: fixed width, so that ids sort like numbers."""
        product, store = divmod(number, len(self.stores))
        return f"il_{self.goods[product].number:08d}{self.stores[store]:05d}"

    def locations(self) -> list[Item]:
        """List the stores."""
        return [{"id": location_id(number), "name": f"Store {number}"} for number in self.stores]

    # What is meant by an id.

    def find_product(self, product_id: str) -> int | None:
        return self._product_at.get(product_id)

    def find_sku(self, sku: str) -> int | None:
        return self._by_sku.get(sku)

    def find_store(self, location: str) -> int | None:
        return self._store_at.get(location)

    def find_level(self, level_id: str) -> int | None:
        """Find a level by its id; None when there is none of that name."""
        product = self._product_at.get(f"prod_{level_id[3:11]}")
        store = self._store_at.get(f"loc_{level_id[11:].lstrip('0')}")
        if product is None or store is None:
            return None
        number = product * len(self.stores) + store
        return number if self.level_id(number) == level_id else None

    # What changes.

    def adjust(self, number: int, delta: int, reserved_delta: int = 0) -> None:
        """Add to (or take from) what is on hand and what is reserved at one level, not below zero."""
        reserved = max(0, self.reserved[number] + reserved_delta)
        self.set_level(number, on_hand=self.on_hand[number] + delta, reserved=reserved)

    def set_level(
        self, number: int, *, on_hand: int | None = None, reserved: int | None = None, incoming: int | None = None
    ) -> None:
        """State the quantities of one level; those left out stay. A deleted level comes back."""
        for column, quantity in ((self.on_hand, on_hand), (self.reserved, reserved), (self.incoming, incoming)):
            if quantity is not None:
                column[number] = _within(quantity)
        self.levels.deleted[number] = False
        self._changed_levels([number])

    def edit_product(self, number: int, **fields: str | int | None) -> None:
        """Change name, brand, category or cents of one product. A deleted product comes back with its levels."""
        product = self.goods[number]
        for field, value in fields.items():
            setattr(product, field, value)
        if self.products.deleted[number]:
            self._mark_levels(number, deleted=False)
        self.products.deleted[number] = False
        self._changed_product(number)

    def delete_level(self, number: int) -> None:
        """Leave a tombstone in place of one level."""
        self.levels.deleted[number] = True
        self._changed_levels([number])

    def delete_product(self, number: int) -> None:
        """Leave tombstones in place of one product and of its levels at every store."""
        self.products.deleted[number] = True
        self._changed_product(number)
        self._mark_levels(number, deleted=True)

    def _mark_levels(self, product: int, *, deleted: bool) -> None:
        first = product * len(self.stores)
        numbers = [
            number for number in range(first, first + len(self.stores)) if self.levels.deleted[number] != deleted
        ]
        for number in numbers:
            self.levels.deleted[number] = deleted
        self._changed_levels(numbers)

    def _changed_product(self, number: int) -> None:
        self.products.touch([number], self.clock.now_us())
        self.listener(f"product.{_verb(self.products, number)}", self.product(number))

    def _changed_levels(self, numbers: Iterable[int]) -> None:
        numbers = list(numbers)
        if numbers:
            self.levels.touch(numbers, self.clock.now_us())
        for number in numbers:
            self.listener(f"inventory_level.{_verb(self.levels, number)}", self.level(number))


def location_id(store: int) -> str:
    """Name a store by its real number."""
    return f"loc_{store}"


def _change(keyset: Keyset, number: int) -> Item:
    return {
        "updated_at": _iso_of_ties(keyset.updated[number]),
        "version": keyset.version[number],
        "deleted": bool(keyset.deleted[number]),
    }


def _verb(keyset: Keyset, number: int) -> str:
    return "deleted" if keyset.deleted[number] else "updated"


def _within(quantity: int) -> int:
    return max(-_LARGEST, min(_LARGEST, quantity))
