"""Errors as the warehouse speaks them: `application/problem+json` with a status, a short code and one sentence."""

from collections.abc import Mapping
from http import HTTPStatus

import orjson
from starlette.responses import Response


class Problem(Exception):  # noqa: N818 - named as in RFC 9457, which it renders
    """A request that will not be served. `code` is for programs, `detail` is for people."""

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Render the problem document."""
        document = {
            "type": f"https://warehouse.example/problems/{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        return Response(
            orjson.dumps(document), self.status, media_type="application/problem+json", headers=self.headers
        )
