"""The others: every outside system, behind a client that speaks our language.

Each module without a leading underscore is one integration: the listing of this folder is the table of contents.
They know nothing of jobs and nothing of the database: they take settings, they return checked values, and they fail
with one small tree of errors (``integrations._errors`` draws it). To add one, write one module here; nothing that
exists has to change.

    from integrations.warehouse import Warehouse, WarehouseSettings

    warehouse = Warehouse(WarehouseSettings(url="https://wms.example.com", token="..."))
    page = warehouse.products(updated_since=None)
"""

from __future__ import annotations

import importlib
import pkgutil

from integrations._budget import Hindrance, Level
from integrations._channel import Channel, Notice
from integrations._circuit import Standing
from integrations._errors import (
    BadDelivery,
    BadSignature,
    CircuitOpen,
    CursorExpired,
    IntegrationError,
    NotFound,
    OutOfBudget,
    Rejected,
    Throttled,
    Unauthorized,
    Unavailable,
)
from integrations._integration import EventKey, Integration, WebhookSource, signed_by
from integrations._paging import Cursor, Link, Number, Offset, Token
from integrations._partner import PartnerSettings, StockPartner
from integrations._partner_options import Ask, Export, Fields, Listing, Places, Skus
from integrations._rate import POLITE, PacedSettings, Rate
from integrations._schemes import GITHUB, SHOPIFY, STANDARD, STRIPE, SVIX, Hmac
from integrations._secrets import Secrets, WebhookSecret
from integrations._settings import IntegrationSettings
from integrations._shared_door import SharedDoor
from integrations._signatures import Headers, Lines, Signed, Verifier
from integrations._source import LARGEST_BODY, Body, Delivery, Header, Source, at_path, label
from integrations._teaching import Teaching

__all__ = [
    "GITHUB",
    "LARGEST_BODY",
    "POLITE",
    "SHOPIFY",
    "STANDARD",
    "STRIPE",
    "SVIX",
    "Ask",
    "BadDelivery",
    "BadSignature",
    "Body",
    "Channel",
    "CircuitOpen",
    "Cursor",
    "CursorExpired",
    "Delivery",
    "EventKey",
    "Export",
    "Fields",
    "Header",
    "Headers",
    "Hindrance",
    "Hmac",
    "Integration",
    "IntegrationError",
    "IntegrationSettings",
    "Level",
    "Lines",
    "Link",
    "Listing",
    "NotFound",
    "Notice",
    "Number",
    "Offset",
    "OutOfBudget",
    "PacedSettings",
    "PartnerSettings",
    "Places",
    "Rate",
    "Rejected",
    "Secrets",
    "SharedDoor",
    "Signed",
    "Skus",
    "Source",
    "Standing",
    "StockPartner",
    "Teaching",
    "Throttled",
    "Token",
    "Unauthorized",
    "Unavailable",
    "Verifier",
    "WebhookSecret",
    "WebhookSource",
    "at_path",
    "label",
    "load",
    "signed_by",
]


def load() -> dict[str, type[Integration]]:
    """Import every integration of this folder and return their classes by name, sorted.

    Raises:
        ValueError: Two integrations carry the same name.
    """
    found: dict[str, type[Integration]] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_")):
        for integration in _defined_in(f"{__name__}.{module}"):
            other = found.setdefault(integration.name, integration)
            if other is not integration:
                raise ValueError(f"{other.__module__} and {integration.__module__} share a name: rename one of them.")
    return dict(sorted(found.items()))


def _defined_in(module: str) -> list[type[Integration]]:
    values = vars(importlib.import_module(module)).values()
    return [
        value
        for value in values
        if isinstance(value, type) and issubclass(value, Integration) and value.__module__ == module
    ]
