"""A short chaos run with a seed of its own, and one whose ledger is broken on purpose before it is judged."""

import subprocess
import sys

import pytest

from sandbox.fleet import ROOT
from tests.chaos.invariants import INVARIANTS
from tests.chaos.sabotage import SABOTAGES

SEED = 20


def chaos(*options: str) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own: the schedule of the chaos jobs is nobody else's."""
    command = [sys.executable, "-m", "tests.chaos", "--seed", str(SEED), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.timeout(400)
def test_everything_is_killed_frozen_cut_wiped_and_restarted_and_it_adds_up() -> None:
    run = chaos("--minutes", "0.4")
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"chaos with seed {SEED}" in run.stdout
    for survived in ("worker killed", "worker frozen", "Postgres", "Valkey"):
        assert survived in run.stdout, run.stdout


@pytest.mark.timeout(400)
def test_a_lost_effect_is_reported_with_the_seed() -> None:
    run = chaos("--minutes", "0.03", "--rate", "60", "--sabotage", "lose-effect")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "VIOLATED: every run that succeeded left its effect: run " in run.stdout
    assert f"--seed {SEED}" in run.stdout


def test_every_invariant_has_a_sabotage_that_it_must_notice() -> None:
    assert {sabotage.invariant for sabotage in SABOTAGES.values()} == set(INVARIANTS)


@pytest.mark.timeout(120)
def test_schedulers_are_killed_and_frozen_and_every_second_has_its_slot_once() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.chaos.clocks",
        "--minutes",
        "0.25",
        "--schedules",
        "20",
        "--seed",
        str(SEED),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "no fire came twice" in run.stdout
    for told in ("schedulers frozen", "schedulers killed", "recorded late, p99"):
        assert told in run.stdout, run.stdout
