"""What each shelf held on the morning the stand-in opened.

The source data knows sales, not stock, so stock is derived: some weeks of the product's own rate of sale over a
few facings, drawn from a generator seeded by the product. The same product at the same store therefore opens with
the same numbers in every run, however many others are served. One shelf in twelve is empty: real stores are like that.
"""

from __future__ import annotations  # array.array takes a type argument only from Python 3.12 on

import random
from array import array
from dataclasses import dataclass

from sandbox.upstreams.catalogue import MOST_STORES, Catalogue, Product

# The sales are those of a panel of 2,469 households; a store sells to some thirty times as many.
_HOUSEHOLDS_PER_PANEL_MEMBER = 30
_WEEKS = 52

_INSTANTS = 2_000
_SPREAD_US = 90 * 86_400 * 1_000_000
_QUIET_US = 3_600 * 1_000_000


@dataclass(frozen=True, slots=True)
class Stock:
    """Columns of all levels; the level of product p at store s is at position `p * stores + s`. Times are µs."""

    on_hand: array[int]
    reserved: array[int]
    incoming: array[int]
    updated: array[int]


def stock(catalogue: Catalogue, seed: int, now_us: int) -> Stock:
    """Draw the opening stock; its `updated` times lie 1 hour to 90 days before `now_us`, with many ties."""
    columns = Stock(array("i"), array("i"), array("i"), array("q"))
    instants = past(now_us)
    stores = len(catalogue.stores)
    for product in catalogue.products:
        draw = random.Random(f"{seed}:{product.number}")
        weekly = product.units_sold * _HOUSEHOLDS_PER_PANEL_MEMBER / _WEEKS / MOST_STORES
        for _ in range(stores):
            _open_level(columns, weekly, draw)
            columns.updated.append(instants[int(draw.random() * _INSTANTS)])
    return columns


def _open_level(columns: Stock, weekly: float, draw: random.Random) -> None:
    facings = 1 + int(draw.random() * 6)
    on_hand = 0 if draw.random() < 1 / 12 else facings + int(weekly * (0.3 + 1.7 * draw.random()))
    low = on_hand < weekly or on_hand == 0
    columns.on_hand.append(on_hand)
    columns.reserved.append(int(on_hand * 0.3 * draw.random() ** 3))
    columns.incoming.append(12 * (1 + int(weekly / 12)) if low else 0)


def product_times(products: list[Product], seed: int, now_us: int) -> array[int]:
    """Say when each product was last edited: instants of the past, shared by many."""
    instants = past(now_us)
    return array("q", (random.Random(f"{seed}:{product.number}:edited").choice(instants) for product in products))


def past(now_us: int) -> list[int]:
    """List the instants of the last 90 days, oldest first, at which the source changed in batches."""
    step = (_SPREAD_US - _QUIET_US) // _INSTANTS
    return [now_us - _SPREAD_US + tick * step for tick in range(_INSTANTS)]
