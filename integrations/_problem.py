"""What the body of an error says, in the ways in which upstreams say it; whatever cannot be read says nothing."""

from __future__ import annotations

import orjson

LONGEST = 2_000
"""Characters that are looked at. Whoever shows them cuts shorter, after secrets were taken out."""


def read_problem(body: bytes) -> tuple[str | None, str]:
    """Find the machine word and the sentence in an error body: problem+json, or Stripe's ``error`` object."""
    try:
        problem = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None, ""
    inner = problem.get("error") if isinstance(problem, dict) else None
    fields = inner if isinstance(inner, dict) else problem if isinstance(problem, dict) else {}
    code = fields.get("code") or fields.get("type")
    detail = fields.get("detail") or fields.get("message") or fields.get("title") or ""
    return one_line(code)[:200] or None, one_line(detail)


def one_line(text: object) -> str:
    """Return a text as one short line; anything else is none."""
    return " ".join(text.split())[:LONGEST] if isinstance(text, str) else ""
