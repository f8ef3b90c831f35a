"""How long an upstream asks us to stay away, read from its ``Retry-After``.

The header is a number of seconds or a date. A date is held against the ``Date`` header of the same answer, so two
clocks that disagree do not turn a minute into an hour. A value nobody can mean is capped at an hour, and one nobody
can read counts as absent.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST = 3600.0
"""Seconds; whoever asks for more is asked again after this."""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait, between 0 and one hour, or None if the answer does not say.

    Args:
        headers: The answer's headers, looked up by lower-case name.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return LONGEST if len(text) > len("3600") else min(float(text), LONGEST)
    moment = http_date(text)
    if moment is None:
        return None
    now = http_date(headers.get("date", ""))
    wait = moment.timestamp() - (now.timestamp() if now else time.time())
    return min(max(wait, 0.0), LONGEST)


def http_date(text: str) -> datetime | None:
    """Read an HTTP date of any of the three historic forms, in UTC; None if it is none."""
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
