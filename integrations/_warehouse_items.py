"""What a product, a stock level and a location must look like to be let in.

Strict about what our tables rely on (whole quantities, times with a zone, keys that are short printable text),
forgiving about the rest: unknown fields are ignored, a number may be written as a string.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    model_validator,
)

LARGEST_QUANTITY = 10**9
_LARGEST_BIGINT = 2**63 - 1
_WHOLE = re.compile(r"-?[0-9]{1,19}")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ].+")


def read_moment(value: object) -> datetime | None:
    """Read an ISO 8601 time with a zone, in UTC; None if it is none. A bare number is no time."""
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _moment(value: Any) -> datetime:
    moment = read_moment(value)
    if moment is None:
        raise ValueError("must be a time with a zone, such as 2026-11-23T05:00:00Z")
    return moment


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a whole number")  # noqa: TRY004 - pydantic turns ValueError into a field error
    if isinstance(value, str):
        value = int(value) if _WHOLE.fullmatch(value) else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    if value is None:
        raise ValueError("must be a whole number, not a fraction or text")
    return int(value)


def _key(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("must be printable text, not blank")
    return value


def _storable(value: str | None) -> str | None:
    if value is not None and "\0" in value:
        raise ValueError("must not contain a NUL character, which no database text can hold")
    return value


def _none_if_blank(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


Key = Annotated[StrictStr, Field(max_length=200), AfterValidator(_key)]
Words = Annotated[StrictStr | None, Field(max_length=2000), BeforeValidator(_none_if_blank), AfterValidator(_storable)]
Quantity = Annotated[int, BeforeValidator(_whole), Field(ge=-LARGEST_QUANTITY, le=LARGEST_QUANTITY)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=LARGEST_QUANTITY)]
Ordinal = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=_LARGEST_BIGINT)]
Moment = Annotated[datetime, BeforeValidator(_moment)]


class _Item(BaseModel):
    """What every item has: an id, and which edition of it this is (later wins, by time and then version)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Key
    updated_at: Moment
    version: Ordinal
    deleted: StrictBool = False


class Price(BaseModel):
    """An amount in minor units of a currency; no amount means that the price is not known."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    amount: Ordinal | None
    currency: Annotated[StrictStr, Field(pattern=r"^[A-Z]{3}$")]


class ProductItem(_Item):
    """A product. One that is deleted may have lost everything but its keys."""

    sku: Key
    name: Words = None
    brand: Words = None
    category: Words = None
    price: Price | None = None

    @model_validator(mode="after")
    def _named(self) -> ProductItem:
        if self.name is None and not self.deleted:
            raise ValueError("a product needs a name")
        return self


class LevelItem(_Item):
    """The stock of one product at one location. ``on_hand`` below zero means that it was oversold."""

    sku: Key
    location_id: Key
    on_hand: Quantity
    reserved: Count
    incoming: Count = 0


class LocationItem(BaseModel):
    """A place where stock lies."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Key
    name: Key


def explain(error: ValidationError) -> str:
    """Say what is wrong with an item, field by field, without repeating its content."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{_place(problem['loc'])}: {problem['msg'].removeprefix('Value error, ')}" for problem in problems
    )


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc) or "item"
