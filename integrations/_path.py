"""Where a value lies in what a partner sends, as a person writes it down.

sku                                 a field
variant.sku                         a field of a field
quantities[name=on_hand].quantity   of a list, the object whose `name` is `on_hand`, and of that a field
"""

from __future__ import annotations

import re
from typing import Any

_STEP = re.compile(r"([^.\[\]=]+)(?:\[([^.\[\]=]+)=([^.\[\]=]+)\])?")


def check_path(path: str) -> str:
    """Return a path that can be followed.

    Raises:
        ValueError: It cannot.
    """
    if not all(_STEP.fullmatch(step) for step in path.split(".")):
        raise ValueError(f"{path!r} is no path: write sku, variant.sku or quantities[name=on_hand].quantity")
    return path


def look(raw: Any, path: str) -> Any:
    """Return what lies at a path; None where the way ends early."""
    for step in path.split("."):
        if not isinstance(raw, dict) or (parts := _STEP.fullmatch(step)) is None:
            return None
        name, key, wanted = parts.groups()
        raw = raw.get(name)
        if key is not None:
            objects = [one for one in raw if isinstance(one, dict)] if isinstance(raw, list) else []
            raw = next((one for one in objects if one.get(key) == wanted), None)
    return raw
