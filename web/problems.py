"""Answers to what went wrong: `application/problem+json` for programs, with one sentence and nothing internal."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse


class Problem(JSONResponse):
    """An error as RFC 9457 wants it.

    Args:
        status: HTTP status.
        detail: One sentence: what happened and what to do. Left out, the status speaks for itself.
        headers: Further response headers.
        members: Further members of the body.
    """

    media_type = "application/problem+json"

    def __init__(
        self, status: int, detail: str | None = None, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        said = {} if detail is None else {"detail": detail}
        super().__init__(
            {"title": HTTPStatus(status).phrase, "status": status, **said, **members},
            status_code=status,
            headers=dict(headers or {}),
        )
