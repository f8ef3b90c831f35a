"""Which items are let in, and what is said about the others."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from integrations._warehouse_items import LevelItem, LocationItem, ProductItem, explain, read_moment

LEVEL: dict[str, Any] = {
    "id": "il_1", "sku": "TSHIRT-RED-M", "location_id": "loc_1", "on_hand": 12, "reserved": 3, "available": 9,
    "incoming": 0, "updated_at": "2026-11-23T05:00:00.123456Z", "version": 42, "deleted": False,
}  # fmt: skip
PRODUCT: dict[str, Any] = {
    "id": "prod_1", "sku": "TSHIRT-RED-M", "name": "T-shirt", "brand": "Loom", "category": "Shirts",
    "price": {"amount": 349, "currency": "USD"}, "updated_at": "2026-11-23T05:00:00Z", "version": 1, "deleted": False,
}  # fmt: skip


def _why(model: type[LevelItem | ProductItem], item: object) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(item)
    return explain(caught.value)


def test_the_items_of_the_contract_are_let_in() -> None:
    level = LevelItem.model_validate({**LEVEL, "colour": "unknown"})
    assert (level.on_hand, level.reserved, level.version) == (12, 3, 42)
    assert level.updated_at == datetime(2026, 11, 23, 5, 0, 0, 123456, tzinfo=UTC)
    product = ProductItem.model_validate(PRODUCT)
    assert product.price is not None
    assert (product.price.amount, product.price.currency) == (349, "USD")


@pytest.mark.parametrize(
    "change",
    [{"on_hand": -7}, {"on_hand": "12"}, {"on_hand": "-3"}, {"on_hand": 12.0}, {"on_hand": 10**9}, {"reserved": "0"},
     {"version": 0}, {"version": 2**63 - 1}, {"updated_at": "2026-11-23T06:00:00+01:00"}, {"sku": "x" * 200}],
)  # fmt: skip
def test_what_reality_sends_is_accepted(change: dict[str, Any]) -> None:
    assert LevelItem.model_validate({**LEVEL, **change}).id == "il_1"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sku": None}, "sku"),
        ({"sku": ""}, "sku"),
        ({"sku": "  "}, "sku"),
        ({"sku": 12}, "sku"),
        ({"sku": "x" * 201}, "sku"),
        ({"sku": "a\x00b"}, "sku"),
        ({"id": ["il_1"]}, "id"),
        ({"on_hand": True}, "on_hand"),
        ({"on_hand": 1.5}, "on_hand"),
        ({"on_hand": "1.5"}, "on_hand"),
        ({"on_hand": " 12"}, "on_hand"),
        ({"on_hand": "1_2"}, "on_hand"),
        ({"on_hand": "٣"}, "on_hand"),
        ({"on_hand": "9" * 5000}, "on_hand"),
        ({"on_hand": None}, "on_hand"),
        ({"on_hand": 10**9 + 1}, "on_hand"),
        ({"on_hand": 1e300}, "on_hand"),
        ({"on_hand": float("nan")}, "on_hand"),
        ({"on_hand": float("inf")}, "on_hand"),
        ({"reserved": -1}, "reserved"),
        ({"incoming": -1}, "incoming"),
        ({"version": -1}, "version"),
        ({"version": 2**63}, "version"),
        ({"deleted": "yes"}, "deleted"),
        ({"updated_at": "2026-11-23T05:00:00"}, "updated_at"),
        ({"updated_at": 1795400000}, "updated_at"),
        ({"updated_at": "1795400000"}, "updated_at"),
        ({"updated_at": "2026-11-23"}, "updated_at"),
        ({"updated_at": "0001-01-01T00:00:00+14:00"}, "updated_at"),
        ({"updated_at": "yesterday"}, "updated_at"),
    ],
)
def test_a_malformed_level_is_refused_by_the_name_of_its_field(change: dict[str, Any], field: str) -> None:
    assert _why(LevelItem, {**LEVEL, **change}).startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["id", "sku", "location_id", "on_hand", "reserved", "updated_at", "version"])
def test_a_level_without_what_we_rely_on_is_refused(field: str) -> None:
    assert _why(LevelItem, {k: v for k, v in LEVEL.items() if k != field}) == f"{field}: Field required"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"price": {"amount": -1, "currency": "USD"}}, "price.amount"),
        ({"price": {"amount": 3.49, "currency": "USD"}}, "price.amount"),
        ({"price": {"amount": True, "currency": "USD"}}, "price.amount"),
        ({"price": {"amount": 349, "currency": "usd"}}, "price.currency"),
        ({"price": {"amount": 349, "currency": "USD\n"}}, "price.currency"),
        ({"price": {"amount": 349}}, "price.currency"),
        ({"price": 349}, "price"),
        ({"name": "nul\x00"}, "name"),
        ({"name": " "}, "item"),
    ],
)
def test_a_malformed_product_is_refused_by_the_name_of_its_field(change: dict[str, Any], field: str) -> None:
    assert _why(ProductItem, {**PRODUCT, **change}).startswith(f"{field}: ")


@pytest.mark.parametrize(
    "change", [{"price": None}, {"price": {"amount": None, "currency": "USD"}}, {"brand": ""}, {"category": None},
               {"name": "Non\u00a0breaking"}, {"name": None, "deleted": True}],
)  # fmt: skip
def test_a_product_may_lack_what_we_can_do_without(change: dict[str, Any]) -> None:
    assert ProductItem.model_validate({**PRODUCT, **change}).sku == "TSHIRT-RED-M"


def test_a_blank_brand_is_no_brand() -> None:
    assert ProductItem.model_validate({**PRODUCT, "brand": "  "}).brand is None


def test_an_explanation_never_repeats_the_content() -> None:
    assert "hunter2" not in _why(LevelItem, {**LEVEL, "sku": ["hunter2"], "on_hand": "hunter2", "deleted": "hunter2"})


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(LEVEL)), st.sampled_from(sorted(PRODUCT)), _json)
def test_any_json_in_any_field_gives_an_item_or_an_explanation(field: str, other: str, value: object) -> None:
    for model, item in ((LevelItem, {**LEVEL, field: value}), (ProductItem, {**PRODUCT, other: value})):
        said = _outcome(model, item)
        assert said is UTC or ": " in str(said)


def _outcome(model: type[LevelItem | ProductItem], item: object) -> object:
    try:
        return model.model_validate(item).updated_at.tzinfo
    except ValidationError as error:
        return explain(error)


@given(st.datetimes(timezones=st.timezones()))
def test_a_written_moment_is_read_back(moment: datetime) -> None:
    text = moment.isoformat()
    again = read_moment(text)
    assert again is None or again == datetime.fromisoformat(text)


def test_a_location_needs_an_id_and_a_name() -> None:
    assert LocationItem.model_validate({"id": "loc_1", "name": "Store 1", "city": "Bern"}).name == "Store 1"
    with pytest.raises(ValidationError):
        LocationItem.model_validate({"id": "loc_1"})
