"""The real goods: a retailer's products, its busiest stores and a year of what they sold.

The files in `data/` are read once at start. Whoever wants fewer products gets those that sold most, so that
the replayed sales nearly always hit something on the shelf; fewer stores means the busiest ones. Products and
stores are then put in the order of their ids, so that a position in our lists sorts exactly like the id that the
outside sees. Gaps of the source (no price, no category, no size) stay gaps.
"""

from __future__ import annotations  # array.array takes a type argument only from Python 3.12 on

import gzip
import heapq
import re
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

DATA = Path(__file__).resolve().parents[2] / "data"
MOST_PRODUCTS = 92_331
MOST_STORES = 20

#: Of a sale line: when, which store, which product, how many.
_COLUMNS, _NUMBERS = 4, (1, 2, 3)

_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")


@dataclass(slots=True)
class Product:
    """One article of the retailer; `cents` is its shelf price in US cents, None where it never sold."""

    number: int
    name: str
    brand: str
    category: str | None
    cents: int | None
    units_sold: int

    @property
    def id(self) -> str:
        return f"prod_{self.number:08d}"

    @property
    def sku(self) -> str:
        return f"SKU-{self.number}"


@dataclass(frozen=True, slots=True)
class Sales:
    """Real sale lines in the order of the year: which product (by position), which store, how many."""

    products: array[int]
    stores: array[int]
    quantities: array[int]

    def __len__(self) -> int:
        return len(self.products)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Chosen products and stores, both ascending by number, and the sale lines that concern them."""

    products: list[Product]
    stores: list[int]
    sales: Sales


def read(products: int, stores: int, folder: Path = DATA) -> Catalogue:
    """Read the best-selling `products` and the busiest `stores`.

    Raises:
        ValueError: more was asked for than the data holds, or less than one.
    """
    if not (1 <= products <= MOST_PRODUCTS and 1 <= stores <= MOST_STORES):
        raise ValueError(f"Ask for 1 to {MOST_PRODUCTS} products and 1 to {MOST_STORES} stores.")
    sold = _sales(folder / "sales.csv.gz")
    chosen = _best_sellers(folder / "products.jsonl.gz", products, Counter(sold.products))
    busiest = sorted(store for store, _ in Counter(sold.stores).most_common(stores))
    numbers = [int(row["product_id"]) for row in chosen]
    units = _units(sold, numbers)
    goods = [_product(row, units[number]) for number, row in zip(numbers, chosen, strict=True)]
    return Catalogue(goods, busiest, _select(sold, numbers, busiest))


def _sales(path: Path) -> Sales:
    """Read all sale lines, by number instead of position; in columns, since there are half a million."""
    words = gzip.decompress(path.read_bytes()).replace(b"\n", b",").split(b",")[:-1]
    columns = (array("I", map(int, words[place + _COLUMNS :: _COLUMNS])) for place in _NUMBERS)  # below the header
    stores, products, quantities = columns
    return Sales(products, stores, quantities)


def _best_sellers(path: Path, count: int, lines_sold: Counter[int]) -> list[dict[str, Any]]:
    lines = gzip.decompress(path.read_bytes()).splitlines()
    rows: list[dict[str, Any]] = orjson.loads(b"[%b]" % b",".join(lines))
    by_number = {int(row["product_id"]): row for row in rows}
    best = heapq.nsmallest(count, by_number, key=lambda number: (-lines_sold[number], number))
    return [by_number[number] for number in sorted(best)]


def _units(sold: Sales, numbers: list[int]) -> Counter[int]:
    """Return how many pieces of these products were sold, at all stores."""
    wanted, units = set(numbers), Counter[int]()
    for number, quantity in zip(sold.products, sold.quantities, strict=True):
        if number in wanted:
            units[number] += quantity
    return units


def _product(row: dict[str, Any], units_sold: int) -> Product:
    label = row["type"] or row["category"] or row["department"]
    category = f"{_title(row['department'])} > {_title(row['category'])}" if row["category"] else None
    return Product(
        number=int(row["product_id"]),
        name=" ".join(filter(None, [_title(label), row["package_size"]])),
        brand=f"{row['label']} {row['manufacturer_id']}",
        category=category,
        cents=row["unit_price_cents"],
        units_sold=units_sold,
    )


def _title(text: str) -> str:
    return _WORD.sub(lambda word: word[0].capitalize(), text.strip())


def _select(sold: Sales, products: list[int], stores: list[int]) -> Sales:
    product_at = {number: position for position, number in enumerate(products)}
    store_at = {number: position for position, number in enumerate(stores)}
    sales = Sales(array("I"), array("I"), array("I"))
    for product, store, quantity in zip(sold.products, sold.stores, sold.quantities, strict=True):
        if product in product_at and store in store_at:
            sales.products.append(product_at[product])
            sales.stores.append(store_at[store])
            sales.quantities.append(quantity)
    return sales
