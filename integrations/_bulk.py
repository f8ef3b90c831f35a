"""What became of each line of a bulk request.

A bulk request to the search engine succeeds or fails line by line, and there are only three things to do about a
line: nothing, send it again later, or set it aside because it will never be accepted. A version conflict is a
success: the index already has something newer. Deleting what is not there is one too. A fourth answer is not about
the line at all: the index it was meant for is gone, and somebody has to look at which indices there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Verdict: TypeAlias = Literal["ok", "retry", "no_index", "poison"]

_CONFLICT = 409
_GONE = 404
_INDEX_GONE = frozenset({"index_not_found_exception", "index_closed_exception"})
_BUSY = frozenset({403, 408, 429})
"""Too many requests, a timeout, or the whole index blocked for writing: not the document's fault."""


@dataclass(frozen=True, slots=True)
class BulkOutcome:
    """The lines of one bulk request, by their position in it (0 is the first action)."""

    statuses: list[int]
    """The status of each action."""
    ok: list[int] = field(default_factory=list)
    """Positions that are in the index now, or for which the index has something newer."""
    retry: list[int] = field(default_factory=list)
    """Positions to send again later."""
    no_index: list[int] = field(default_factory=list)
    """Positions whose index or write alias does not exist (any more)."""
    poison: dict[int, str] = field(default_factory=dict)
    """Positions that will never be accepted as they are, each with the engine's reason."""


def read_outcome(response: Mapping[str, Any]) -> BulkOutcome:
    """Judge a bulk response: ``errors``, and ``items``, each of which is ``{action: {"status": ...}}``."""
    lines = [next(iter(item.items())) for item in response.get("items", ())]
    outcome = BulkOutcome([int(result["status"]) for _, result in lines])
    if not response["errors"]:
        outcome.ok.extend(range(len(lines)))
        return outcome
    for position, (action, result) in enumerate(lines):
        error = result.get("error") or {}
        match judge_line(action, outcome.statuses[position], error.get("type")):
            case "ok":
                outcome.ok.append(position)
            case "retry":
                outcome.retry.append(position)
            case "no_index":
                outcome.no_index.append(position)
            case "poison":
                outcome.poison[position] = _reason(outcome.statuses[position], error)
    return outcome


def judge_line(action: str, status: int, error_type: str | None = None) -> Verdict:
    """Decide what to do about one line.

    Args:
        action: ``index``, ``create``, ``update`` or ``delete``.
        status: Its status.
        error_type: The engine's word for what went wrong, if it said.
    """
    if status < 300 or status == _CONFLICT:  # noqa: PLR2004 - HTTP's own numbers
        return "ok"
    if error_type in _INDEX_GONE:
        return "no_index"
    if status == _GONE and action == "delete":
        return "ok"
    return "retry" if status in _BUSY or status >= 500 else "poison"  # noqa: PLR2004 - HTTP's own numbers


def _reason(status: int, error: Mapping[str, Any]) -> str:
    if not error:
        return f"refused with status {status}"
    inner = error.get("caused_by") or {}
    parts = (error.get("type"), error.get("reason"), inner.get("reason"))
    return ": ".join(str(part) for part in parts if part)[:1000]
