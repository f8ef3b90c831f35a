"""`make bench` can be trusted to run: a short drain of ours beside bare Dramatiq, for real, and pinned peers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sandbox.services import Services
from tests.benchmarks import drain
from tests.benchmarks.__main__ import DOCUMENT, QUESTIONS, app
from tests.benchmarks.contestants import DRAMATIQ, OURS
from tests.benchmarks.ground import Ground
from tests.benchmarks.plan import Plan

HERE = Path(__file__).parent


@pytest.fixture
def ground(services: Services) -> Iterator[Ground]:
    made = Ground(services)
    yield made
    made.clear()


def test_a_quick_drain_of_ours_and_of_bare_dramatiq_gives_rates_and_ratios(ground: Ground) -> None:
    said: list[str] = []
    table = drain.measure(Plan(ground, [OURS, DRAMATIQ], repeats=1, quick=True, say=said.append))
    ours, bare = table.rows
    rates = [float(row[1].replace(",", "")) for row in table.rows]
    assert min(rates) > 0, said
    assert (ours[0], bare[0], bare[2]) == ("Headrace", "Dramatiq", "1.00")
    assert float(ours[2]) == float(bare[3]) == pytest.approx(rates[0] / rates[1], abs=0.01)
    counted = ground.execute(OURS.name, "SELECT count(*), count(DISTINCT run_id) FROM attempts")
    assert counted == [(OURS.jobs // 10, OURS.jobs // 10)]


def test_a_question_or_a_peer_that_does_not_exist_is_refused_before_anything_starts() -> None:
    for arguments, name in ((["speed"], "speed"), (["drain", "--only-peer", "cron"], "cron")):
        refused = CliRunner().invoke(app, arguments)
        assert refused.exit_code == 2
        assert f"is called '{name}'" in refused.output


def test_a_run_that_says_little_is_not_kept() -> None:
    for arguments in (["drain", "--quick"], ["drain", "--only-peer", "dramatiq"]):
        refused = CliRunner().invoke(app, [*arguments, "--keep"])
        assert refused.exit_code == 2
        assert "nothing to keep" in refused.output


def test_every_question_has_its_section_in_the_document() -> None:
    text = DOCUMENT.read_text()
    for section in [*QUESTIONS, "machine"]:
        assert text.count(f"<!-- {section} -->") == text.count(f"<!-- end of {section} -->") == 1


def test_the_peers_are_pinned_and_no_address_is_written_down() -> None:
    pins = (HERE / "peers" / "requirements.txt").read_text().splitlines()
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    wanted = json.loads((HERE / "node" / "package.json").read_text())["dependencies"]
    locked = json.loads((HERE / "node" / "package-lock.json").read_text())["packages"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert [name for name, package in locked.items() if "resolved" in package] == []
