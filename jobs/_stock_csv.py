"""A table of counted stock as people have it: the columns sku, location and on_hand, and how the file spells them.

    sku,location,on_hand
    TEA-GREEN,loc_1,12

The first line names the columns, in any order and among others. Commas, semicolons and tabs separate; UTF-8 with or
without a mark, and UTF-16 with one, are read, and every kind of line end. What is none of that is refused with the
number of the line, because a guess would put wrong figures into the ledger. However long the file is, no more than a
piece and a row of it are in memory.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

COLUMNS = ("sku", "location", "on_hand")
SEPARATORS = (",", ";", "\t")
#: Characters that a line may have: more is a quotation mark that nobody closed, or no table.
LONGEST_LINE = 65_536
_ENDS = re.compile(rb"\r\n|\r|\n")


class BadFile(ValueError):  # noqa: N818 - reads as what it is in a message
    """A file that is no table of stock; the message names the line."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it is written, with the number of its last line."""

    line: int
    sku: str
    location: str
    on_hand: str


def read(pieces: Iterable[bytes]) -> Iterator[Row]:
    """Read rows from the pieces of a file.

    Raises:
        BadFile: It is none that we can read, from this line on.
    """
    lines = _lines(pieces)
    first = next(lines, "")
    separator, places = _header(first)
    table = csv.reader(lines, delimiter=separator, strict=True)
    width = len(next(csv.reader([first], delimiter=separator), []))
    while True:
        try:
            cells = next(table, None)
        except csv.Error as error:
            where = f"line {table.line_num + 1}"
            raise BadFile(f"{where} is no row of a table ({error}): check its quotation marks") from None
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != width:
            raise BadFile(f"line {table.line_num + 1} has {len(cells)} cells and the first line names {width} columns")
        sku, location, on_hand = (cells[place].strip() for place in places)
        yield Row(table.line_num + 1, sku, location, on_hand)


def _header(first: str) -> tuple[str, Sequence[int]]:
    for separator in SEPARATORS:
        try:
            cells = next(csv.reader([first], delimiter=separator, strict=True), [])
        except csv.Error:
            continue
        names = [cell.strip().lower() for cell in cells]
        if all(names.count(column) == 1 for column in COLUMNS):
            return separator, [names.index(column) for column in COLUMNS]
    wanted = ", ".join(COLUMNS)
    raise BadFile(f"line 1 must name the columns {wanted}, each once, separated by commas, semicolons or tabs")


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    number = 0
    rest = ""
    for some in _text(pieces):
        *whole, rest = (rest + some).split("\n")
        for line in whole:
            number += 1
            yield _checked(line, number) + "\n"
        _checked(rest, number + 1)
    if rest:
        yield rest


def _checked(line: str, number: int) -> str:
    if len(line) > LONGEST_LINE:
        raise BadFile(f"line {number} is longer than {LONGEST_LINE:,} characters: this is no table of stock")
    if "\0" in line:
        raise BadFile(f"line {number} holds a zero character: save the file as CSV UTF-8")
    return line


def _text(pieces: Iterable[bytes]) -> Iterator[str]:
    """Decode a file, with every line end as one character."""
    begun = _begun(pieces)
    head = next(begun)
    wide = head[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}
    inner = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")("strict")
    decoder = io.IncrementalNewlineDecoder(inner, translate=True)
    line = 1
    for piece, final in chain(((piece, False) for piece in chain([head], begun)), [(b"", True)]):
        try:
            some = decoder.decode(piece, final=final)
        except UnicodeDecodeError as error:
            line += len(_ENDS.findall(error.object[: error.start]))
            found = f"line {line} is not {'UTF-16' if wide else 'UTF-8'}, or the file is not whole"
            raise BadFile(f"{found}: save it as CSV UTF-8") from None
        line += some.count("\n")
        yield some


def _begun(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join the first pieces until there are enough bytes to know the encoding by."""
    rest = iter(pieces)
    head = b""
    for piece in rest:
        head += piece
        if len(head) >= len(codecs.BOM_UTF8):
            break
    yield head
    yield from rest
