"""What a person typed into a form of ours, read under a cap."""

from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

#: Bytes and fields of a form at most.
LARGEST, FIELDS = 8_192, 20


async def read(request: Request) -> dict[str, str]:
    """Return the fields of a form.

    Raises:
        HTTPException: If it is too large, or no form.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise HTTPException(413)
    try:
        typed = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS)
    except ValueError:
        raise HTTPException(400) from None
    return dict(typed)


def in_one_line(words: str, longest: int) -> str:
    """Return words without control characters and outer space, cut where they get long; Postgres can hold them."""
    return "".join(sign if sign.isprintable() else " " for sign in words).strip()[:longest]
