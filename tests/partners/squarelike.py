"""A till system that counts as Square does: newest first, quantities as decimal text, no sku but an object's id."""

from collections.abc import Mapping
from typing import ClassVar

from integrations import Cursor, Fields, Listing, Places, Skus, StockPartner, Teaching


class Tills(StockPartner):
    """The tills of the corner shops."""

    name = "tills"
    stock = Listing(
        method="POST",
        path="/v2/inventory/counts/batch-retrieve",
        items="counts",
        paging=Cursor(field="cursor", param="cursor"),
        since="updated_after",
        since_inclusive=False,
        order="desc",
        params={"states": ["IN_STOCK"], "limit": 3},
    )
    fields = Fields(
        id=("catalog_object_id", "location_id"),
        sku_key="catalog_object_id",
        location_id="location_id",
        on_hand="quantity",
        updated_at="calculated_at",
        decimals=True,
    )
    skus = Skus(
        path="/v2/catalog/batch-retrieve", keys="object_ids", items="objects", id="id", sku="item_variation_data.sku"
    )
    places = Places(path="/v2/locations", items="locations")
    headers: ClassVar[Mapping[str, str]] = {"Square-Version": "2026-10-15"}
    teaching = Teaching(remaining="x-ratelimit-remaining", reset="x-ratelimit-reset", reset_as="epoch")
