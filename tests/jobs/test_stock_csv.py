"""A table of stock is read however people save it; what is no table is refused with the number of the line."""

import csv
import io
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs._stock_csv import BadFile, Row, read

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
CELL = TEXT.map(lambda cell: " ".join(cell.split())).filter(bool)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")


def cut(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


@given(
    rows=st.lists(st.tuples(CELL, CELL, CELL, CELL), max_size=20),
    separator=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(ENCODINGS),
    size=st.integers(1, 40),
)
def test_whatever_a_spreadsheet_writes_is_read_as_it_was(
    rows: list[tuple[str, str, str, str]], separator: str, end: str, encoding: str, size: int
) -> None:
    text = io.StringIO()
    table = csv.writer(text, delimiter=separator, lineterminator=end)
    table.writerow(["On_Hand", " sku", "note", "LOCATION"])
    table.writerows(rows)
    found = list(read(cut(text.getvalue().encode(encoding), size)))
    assert found == [Row(line, sku, place, on_hand) for line, (on_hand, sku, _, place) in enumerate(rows, start=2)]


@given(
    content=st.binary(max_size=300) | st.binary(max_size=100).map(b"sku,location,on_hand\n".__add__),
    size=st.integers(1, 50),
)
def test_any_bytes_are_a_table_or_refused_with_a_line(content: bytes, size: int) -> None:
    said = "line "
    try:
        list(read(cut(content, size)))
    except BadFile as error:
        said = str(error)
    assert said.startswith("line ")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "line 1 must name the columns sku, location, on_hand"),
        (b"TEA,loc_1,5\n", "line 1 must name the columns"),
        (b"sku,location,sku,on_hand\n", "line 1 must name the columns"),
        (b"sku,location,on_hand\nTEA,loc_1,5\nCAF\xe9,loc_1,5\n", "line 3 is not UTF-8"),
        (b"sku;location;on_hand\r\nTEA;loc_1\r\n", "line 2 has 2 cells and the first line names 3 columns"),
        (b'sku,location,on_hand\nTEA,loc_1,5\n"TEA,loc_1,5\n', "line 3 is no row of a table"),
        (b"sku,location,on_hand\nT\0A,loc_1,5\n", "line 2 holds a zero character"),
        (b"sku,location,on_hand\n" + b"x" * 70_000, "line 2 is longer than 65,536 characters"),
        ("sku,location,on_hand\nTEA,l,5".encode("utf-16")[:-1], "line 2 is not UTF-16, or the file is not whole"),
        (b"sku,location,on_hand\nCAF\xc3", "line 2 is not UTF-8, or the file is not whole"),
    ],
)
def test_what_is_no_table_is_refused_with_the_line(content: bytes, complaint: str) -> None:
    with pytest.raises(BadFile, match=complaint):
        list(read(cut(content, 50)))


def test_a_row_may_have_lines_in_its_cells_and_empty_lines_around_it() -> None:
    content = b'sku,location,on_hand\n\n"TEA ""green""\nbig",loc_1, 5 \n;,,\n,,\nX,loc_2,6'
    with pytest.raises(BadFile, match="line 7 has"):
        list(read([content.replace(b"X,loc_2,6", b"X,loc_2")]))
    assert list(read([content.replace(b";,,\n", b"")])) == [
        Row(4, 'TEA "green"\nbig', "loc_1", "5"), Row(6, "X", "loc_2", "6"),
    ]  # fmt: skip


def test_a_long_file_is_never_in_memory() -> None:
    line = b"SKU-0000000001,location_0000001,123456\n"
    pieces = (piece for piece in [b"sku,location,on_hand\n", *[line * 200] * 100])
    tracemalloc.start()
    assert sum(1 for _ in read(pieces)) == 20_000
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 300_000
