"""A body is read in bounded pieces, by the clock."""

import gzip
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations._body import BodyError, LateBodyError, read_body

LIMIT = 1000


def _read(*chunks: bytes, encoding: str = "", seconds: float = 60.0) -> bytes:
    return read_body(chunks, encoding=encoding, limit=LIMIT, deadline=time.monotonic() + seconds)


@given(st.binary(max_size=LIMIT), st.integers(1, 50), st.sampled_from(["", "identity", "gzip", "x-gzip"]))
def test_what_was_sent_comes_out_however_it_is_cut(body: bytes, size: int, encoding: str) -> None:
    sent = gzip.compress(body, mtime=0) if "gzip" in encoding else body
    chunks = [sent[start : start + size] for start in range(0, len(sent), size)]
    assert _read(*chunks, encoding=encoding) == body


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_one_byte_too_many_is_refused_and_the_limit_itself_is_not(encoding: str) -> None:
    pack = gzip.compress if encoding else bytes
    assert len(_read(pack(b"x" * LIMIT), encoding=encoding)) == LIMIT
    with pytest.raises(BodyError, match="is larger than"):
        _read(pack(b"x" * (LIMIT + 1)), encoding=encoding)


def test_a_gzip_bomb_is_refused_without_unpacking_it() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    start = time.process_time()
    with pytest.raises(BodyError, match="is larger than"):
        _read(bomb, encoding="gzip")
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize(
    ("encoding", "body", "what"),
    [
        ("br", b"x", "nobody asked for"),
        ("gzip, gzip", b"x", "nobody asked for"),
        ("gzip", b"not gzip", "damaged"),
        ("gzip", gzip.compress(b"hello", mtime=0)[:-3], "does not end"),
        ("gzip", gzip.compress(b"hello", mtime=0) + b"more", "does not end"),
        ("gzip", b"", "does not end"),
    ],
)
def test_a_damaged_or_unasked_packing_is_refused(encoding: str, body: bytes, what: str) -> None:
    with pytest.raises(BodyError, match=what):
        _read(body, encoding=encoding)


def test_a_body_that_never_ends_is_left_at_the_deadline() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b""

    with pytest.raises(LateBodyError):
        read_body(endless(), encoding="", limit=LIMIT, deadline=time.monotonic() + 0.05)


@given(st.lists(st.binary()), st.sampled_from(["", "gzip"]))
def test_arbitrary_bytes_give_a_body_or_a_body_error(chunks: list[bytes], encoding: str) -> None:
    try:
        body = _read(*chunks, encoding=encoding)
    except BodyError:
        return
    assert len(body) <= LIMIT
