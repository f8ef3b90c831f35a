"""The measuring is right: who takes turns, what the middle is, what a ratio is of, and what a failure becomes."""

from itertools import count
from pathlib import Path

import pytest

from tests.benchmarks import report
from tests.benchmarks.report import Table, figure, times
from tests.benchmarks.rounds import Figures, ratio, take_turns


def test_contestants_take_turns_round_by_round() -> None:
    order: list[str] = []

    def measure(name: str) -> Figures:
        order.append(name)
        return {}

    take_turns(["ours", "theirs"], measure, 3)
    assert order == ["ours", "theirs"] * 3


def test_the_median_is_of_the_rounds_of_one_contestant_and_an_outlier_does_not_move_it() -> None:
    given = {"ours": iter([30.0, 10.0, 1_000.0]), "theirs": iter([5.0, 1.0, 3.0])}
    ours, theirs = take_turns(["ours", "theirs"], lambda name: {"per second": next(given[name])}, 3)
    assert ours.median("per second") == 30
    assert theirs.median("per second") == 3
    assert ratio(ours.median("per second"), theirs.median("per second")) == 10
    assert ours.median("never measured") is None


def test_whoever_fails_once_is_named_with_the_reason_and_left_out_while_the_others_go_on() -> None:
    rounds = count(1)

    def measure(name: str) -> Figures:
        if name == "theirs" and next(rounds) == 2:
            raise RuntimeError("first line\nnot installed: no such package")
        return {"per second": 7}

    ours, theirs = take_turns(["ours", "theirs"], measure, 4)
    assert (len(ours.rounds), ours.failure) == (4, None)
    assert theirs.failure == "not installed: no such package"
    assert theirs.median("per second") is None
    assert next(rounds) == 3


@pytest.mark.parametrize(("value", "base"), [(None, 1.0), (1.0, None), (1.0, 0.0)])
def test_there_is_no_ratio_of_what_was_not_measured(value: float | None, base: float | None) -> None:
    assert ratio(value, base) is None


def test_figures_read_as_people_write_them() -> None:
    assert [figure(12_345.6), figure(1.234, digits=2), figure(None)] == ["12,346", "1.23", "-"]
    assert [times(8.514), times(None)] == ["8.51", "-"]
    assert figure(5.0, failure="not installed: gone") == "not installed: gone"


def test_a_table_replaces_its_own_section_of_the_document_and_no_other(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text(
        "# Title\n\n<!-- machine -->\n<!-- end of machine -->\n\n<!-- drain -->\nold\n<!-- end of drain -->\n\nkept\n"
    )
    table = Table("Drain", ["", "runs/s"])
    table.add("ours", "40,000")
    for _ in range(2):
        report.keep(document, "drain", table, "2 cores")
    text = document.read_text()
    assert "<!-- drain -->\n|  | runs/s |\n| --- | ---: |\n| ours | 40,000 |\n" in text
    assert "<!-- machine -->\n2 cores\n<!-- end of machine -->" in text
    assert "old" not in text
    assert text.count("40,000") == 1
    assert text.endswith("kept\n")


def test_a_document_without_the_section_is_left_as_it_is(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text("# Title\n")
    with pytest.raises(ValueError, match="no section <!-- drain -->"):
        report.keep(document, "drain", Table("Drain", [""]), "2 cores")
    assert document.read_text() == "# Title\n"
