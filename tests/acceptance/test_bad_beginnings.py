"""Processes and commands that cannot do what they are asked: one clear line and an exit code, never a traceback.

A server that is away is another matter: a process waits for it, tells its log, and still stops when it is asked to.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sandbox._process import free_port
from sandbox.fleet import ROOT, Fleet, processes
from sandbox.services import Services
from tests.workers.asking import asked

LONG_RUNNING = ("web", "scheduler", "relay", "worker")
#: Seconds that a process gets to start, or to say something; and to stop although a server is away.
PATIENCE = 60.0


@pytest.fixture
def variables(services: Services, database_url: str) -> dict[str, str]:
    """A complete environment, with servers that answer."""
    return {**services.environment(), "DATABASE_URL": database_url, "PORT": "0"}


def away(scheme: str) -> str:
    """Return an address where nobody listens."""
    return f"{scheme}://127.0.0.1:{free_port()}"


def run(command: str, variables: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command of the Procfile with nothing else in its environment, or answer one of an operator."""
    program, *arguments = shlex.split(command)
    if program == "headrace":
        return asked(variables, *arguments)
    return subprocess.run(
        [program, *arguments],
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def told_in_one_line(done: "subprocess.CompletedProcess[str]", code: int, *words: str) -> None:
    """Demand an exit code and one line on standard error that contains some words."""
    assert done.returncode == code, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("command", [*(processes()[kind] for kind in LONG_RUNNING), "headrace runs list"])
def test_a_missing_variable_is_named(command: str) -> None:
    told_in_one_line(run(command, {}), 2, "DATABASE_URL is missing", ".env.example")


@pytest.mark.parametrize("command", [*(processes()[kind] for kind in LONG_RUNNING), "headrace migrate"])
def test_a_malformed_variable_is_named_and_not_repeated(command: str, variables: dict[str, str]) -> None:
    variables["DATABASE_URL"] = "mysql://somebody:hunter2@db/shop"
    done = run(command, variables)
    told_in_one_line(done, 2, "DATABASE_URL cannot be used", "postgresql://")
    assert "hunter2" not in done.stderr + done.stdout


def test_an_integration_that_is_half_configured_stops_the_process(variables: dict[str, str]) -> None:
    variables["WAREHOUSE_URL"] = "https://warehouse.example.com"
    told_in_one_line(run(processes()["worker"], variables), 2, "WAREHOUSE_TOKEN is missing")


def test_a_port_that_is_no_number_stops_the_web_process(variables: dict[str, str]) -> None:
    variables["PORT"] = "many"
    told_in_one_line(run(processes()["web"], variables), 2, "PORT cannot be used")


def test_an_unknown_job_is_refused_with_the_nearest_name(variables: dict[str, str]) -> None:
    told_in_one_line(run("headrace run warehouse.synk", variables), 2, "warehouse.synk", "warehouse.sync")


@pytest.mark.parametrize(
    ("argument", "words"),
    [("full=perhaps", "full"), ("fully=true", "fully"), ("full", "--arg name=value")],
)
def test_a_wrong_argument_is_refused_when_it_is_typed(argument: str, words: str, variables: dict[str, str]) -> None:
    told_in_one_line(run(f"headrace run warehouse.sync --arg {argument}", variables), 2, words)


def test_a_missing_argument_is_refused(variables: dict[str, str]) -> None:
    told_in_one_line(run("headrace run warehouse.apply_event", variables), 2, "event_id", "is required")


@pytest.mark.parametrize("command", ["headrace migrate", "headrace runs list", "headrace run warehouse.sync --wait"])
def test_a_command_says_that_postgres_is_away(command: str, variables: dict[str, str]) -> None:
    variables["DATABASE_URL"] = f"{away('postgresql')}/shop"
    told_in_one_line(run(command, variables), 1, "Postgres does not answer", "DATABASE_URL")


def test_processes_wait_for_postgres_and_still_stop_when_asked(variables: dict[str, str], tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {**variables, "DATABASE_URL": f"{away('postgresql')}/shop"})
    for kind in LONG_RUNNING:
        fleet.start(kind)
    members = fleet.members
    try:
        until(lambda: all(child.said().count("waiting for Postgres") > 1 for child in members.values()))
        assert all(child.running for child in members.values())
    finally:
        started = time.monotonic()
        fleet.close()
    assert time.monotonic() - started < 25, "a process had to be killed"
    assert not any("Traceback" in child.said() for child in members.values())


def test_relay_and_worker_wait_for_redis(variables: dict[str, str], tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {**variables, "REDIS_URL": away("redis")})
    (relay,), (worker,) = fleet.start("relay"), fleet.start("worker")
    members = fleet.members
    try:
        until(lambda: "the relay waits" in members[relay].said() and "onnection" in members[worker].said())
        assert all(child.running for child in members.values())
    finally:
        fleet.close()
    assert not any("Traceback" in child.said() for child in members.values())
