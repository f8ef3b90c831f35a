"""Reading a body: whole, at most so many bytes, within a deadline, and only when its length is beyond doubt."""

import asyncio

from starlette.types import Message, Receive

Headers = list[tuple[str, str]]


class TooLarge(Exception):  # noqa: N818 - says what is the case
    """The body is longer than allowed, or announces that it will be."""


class TooSlow(Exception):  # noqa: N818 - says what is the case
    """The body was not complete in time."""


class Gone(Exception):  # noqa: N818 - says what is the case
    """The sender hung up before its body was complete."""


class Ambiguous(Exception):  # noqa: N818 - says what is the case
    """The request states its length in two ways, and two servers in a row could read two different requests."""


async def read(headers: Headers, receive: Receive, *, cap: int, seconds: float) -> bytes:
    """Return the body, byte for byte.

    Args:
        headers: The header lines of the request.
        receive: Where its body comes from.
        cap: Bytes it may have.
        seconds: How long it may take.

    Raises:
        Ambiguous: Its length is stated in two ways.
        TooLarge: It is longer than the cap; nothing more was read than needed to know.
        TooSlow: It took too long.
        Gone: The sender hung up.
    """
    named = dict(headers)  # a server gives their names in lower case
    announced = named.get("content-length", "0")
    if "content-length" in named and "transfer-encoding" in named:
        raise Ambiguous
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > cap:
        raise TooLarge
    try:
        async with asyncio.timeout(seconds):
            return await _whole(receive, cap)
    except TimeoutError:
        raise TooSlow from None


async def _whole(receive: Receive, cap: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > cap:
            raise TooLarge
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
