"""A body read with both eyes open: never more bytes than expected, never longer than allowed.

A few kilobytes of gzip unpack to gigabytes, and a server that sends one byte a second keeps a reader for a day while
every single read looks healthy. So the body is unpacked here, a bounded piece at a time, and the clock is looked at
between the pieces.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable

_GZIP_WINDOW = 31
"""zlib's way to say: gzip with its header and checksum, nothing else."""


class BodyError(Exception):
    """The body is of no use; the message finishes the sentence "the body ..."."""


class LateBodyError(BodyError):
    """The deadline passed before the body was complete. Trying again may help."""


def read_body(chunks: Iterable[bytes], *, encoding: str, limit: int, deadline: float) -> bytes:
    """Collect and unpack a body.

    Args:
        chunks: The bytes as they come off the wire.
        encoding: The answer's ``Content-Encoding``, lower case; only none and gzip are understood.
        limit: The most bytes the unpacked body may have.
        deadline: When to give up, by ``time.monotonic()``.

    Raises:
        LateBodyError: The deadline passed.
        BodyError: Too large, packed in a way nobody asked for, or damaged.
    """
    if encoding in {"", "identity"}:
        return _collect(_punctual(chunks, deadline), limit)
    if encoding in {"gzip", "x-gzip"}:
        return _unpack(_punctual(chunks, deadline), limit)
    raise BodyError("is packed in a way nobody asked for")


def _punctual(chunks: Iterable[bytes], deadline: float) -> Iterable[bytes]:
    for chunk in chunks:
        if time.monotonic() > deadline:
            raise LateBodyError("did not arrive in time")
        yield chunk


def _collect(chunks: Iterable[bytes], limit: int) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _unpack(chunks: Iterable[bytes], limit: int) -> bytes:
    body = bytearray()
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        for chunk in chunks:
            body += unpacker.decompress(chunk, limit + 1 - len(body))
            if len(body) > limit:
                raise _too_large(limit)
    except zlib.error as error:
        raise BodyError("is damaged gzip") from error
    if not unpacker.eof or unpacker.unused_data:
        raise BodyError("is gzip that does not end where it says")
    return bytes(body)


def _too_large(limit: int) -> BodyError:
    return BodyError(f"is larger than {limit / 2**20:.0f} MiB")
