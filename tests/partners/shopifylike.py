"""A web shop that exports as Shopify does: asked for in a query language, written into a file of JSON lines."""

from typing import Annotated

from pydantic import Field

from integrations import (
    SHOPIFY,
    Ask,
    Body,
    Export,
    Fields,
    Header,
    PartnerSettings,
    Secrets,
    Source,
    StockPartner,
    signed_by,
)

PATH = "/admin/api/2026-10/graphql.json"
OPERATION = "data.bulkOperation"


class WebShopSettings(PartnerSettings):
    """Where the web shop answers, and what its webhooks are signed with."""

    webhook_secrets: Annotated[Secrets, signed_by(SHOPIFY)] = Field(
        default=(), description="Secrets of its webhooks, comma-separated, newest first."
    )


class WebShop(StockPartner):
    """The web shop's own stock rooms."""

    name = "webshop"
    Settings = WebShopSettings
    source = Source(
        scheme=SHOPIFY,
        id=Header("X-Shopify-Webhook-Id"),
        type=Header("X-Shopify-Topic"),
        subject=(Body("inventory_item_id"),),
    )
    stock = Export(
        start=Ask(method="POST", path=PATH, body={"query": "mutation { bulkOperationRunQuery(...) { ... } }"}),
        id="data.bulkOperationRunQuery.bulkOperation.id",
        status=Ask(
            method="POST",
            path=PATH,
            body={"query": "query($id: ID!) { bulkOperation(id: $id) { status url } }", "variables": {"id": "{id}"}},
        ),
        state=f"{OPERATION}.status",
        done=frozenset({"COMPLETED"}),
        failed=frozenset({"FAILED", "CANCELED", "EXPIRED"}),
        url=f"{OPERATION}.url",
        only_with="location.id",
        chunk=2_000,
    )
    fields = Fields(
        id="id",
        sku="item.sku",
        location_id="location.id",
        on_hand="quantities[name=on_hand].quantity",
        reserved="quantities[name=committed].quantity",
        incoming="quantities[name=incoming].quantity",
        updated_at="updatedAt",
    )
    deletion = "404"
    item = "/admin/api/2026-10/inventory_levels/{id}.json"
    item_at = "inventory_level"
    authorization = ("X-Shopify-Access-Token", "")
