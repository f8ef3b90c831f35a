"""The sandbox's programs as an outsider runs them: what they print, how they end, and that they leave nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from sandbox.fleet import ROOT, Fleet
from sandbox.upstreams import Upstreams

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
SIGN_IN = re.compile(r"as (?P<name>\S+) with (?P<password>\S+)")
#: Seconds that anything may take on a machine that does other things as well.
PATIENCE = 120.0


def sandbox(*arguments: str) -> "subprocess.Popen[str]":
    """Start `python -m sandbox` as a shell does: in a process group of its own, which is what Ctrl-C reaches."""
    return subprocess.Popen(
        [sys.executable, "-m", "sandbox", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def started(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a program for the length of the block; its whole group is killed at the end if it still runs."""
    with sandbox(*arguments) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def line(process: "subprocess.Popen[str]", words: str) -> str:
    """Read standard error until a line contains some words."""
    assert process.stderr is not None
    for said in process.stderr:
        if words in said:
            return said
    raise AssertionError(f"it ended without saying {words!r}")


def folders(process: "subprocess.Popen[str]") -> list[Path]:
    """Return the folders of data that a program has now."""
    return list((ROOT / ".sandbox").glob(f"*-{process.pid}-*"))


def leaves_nothing(process: "subprocess.Popen[str]", number: signal.Signals) -> int:
    """Press Ctrl-C, or send SIGTERM; demand that every process and folder goes, and return the exit code."""
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    if number is signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, complaints = process.communicate(timeout=PATIENCE)
    _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    assert [member for member in alive if member.status() != psutil.STATUS_ZOMBIE] == []
    assert folders(process) == []
    assert "Traceback" not in complaints
    return process.returncode


def test_the_demo_adds_up_and_says_so_in_json() -> None:
    with started("demo", "--json", "--products", "300", "--stores", "2") as process:
        printed, _ = process.communicate(timeout=PATIENCE)
    report = json.loads(printed)
    assert process.returncode == 0, report["problems"]
    assert report["products"] == report["documents"] > 280
    assert 2 * 280 < report["stock_levels"] <= 600
    assert report["movements"] > report["stock_levels"] / 2
    assert report["runs"].keys() <= {"succeeded", "waiting", "queued", "running"}
    webhooks = report["webhooks"]
    assert webhooks["sent"] >= webhooks["accepted"] + webhooks["ignored"] + webhooks["duplicate"]
    assert webhooks["accepted"] > 400
    assert webhooks["duplicate"] > 0
    assert report["mismatches"] == 0
    assert len(report["phases"]) == 6
    assert all(seconds >= 0 for seconds in report["phases"].values())
    assert report["problems"] == []
    assert folders(process) == []


def test_the_demo_fails_when_one_number_was_falsified() -> None:
    with started("demo", "--json", "--tamper", "--products", "60", "--stores", "1") as process:
        printed, _ = process.communicate(timeout=PATIENCE)
    report = json.loads(printed)
    assert process.returncode == 1
    assert report["mismatches"] > 0
    assert any("mismatches" in problem for problem in report["problems"])


@pytest.mark.parametrize("options", [["--products", "0"], ["--stores", "21"], ["--products", "many"]])
def test_the_demo_refuses_what_it_cannot_do(options: list[str]) -> None:
    with started("demo", *options) as process:
        printed, complaints = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert options[0] in complaints
    assert "Traceback" not in complaints
    assert printed == ""


@pytest.mark.parametrize(
    ("number", "moment", "code"),
    [(signal.SIGINT, "start web", 130), (signal.SIGTERM, "start Postgres", 143)],
)
def test_a_demo_that_is_interrupted_leaves_nothing_and_does_not_claim_success(
    number: signal.Signals, moment: str, code: int
) -> None:
    with started("demo", "--products", "200", "--stores", "2") as process:
        line(process, moment)
        assert leaves_nothing(process, number) == code


def test_a_demo_that_is_interrupted_while_its_servers_start_leaves_nothing() -> None:
    with started("demo", "--products", "50", "--stores", "1") as process:
        until(lambda: any(list(folder.glob("*/*.pid")) for folder in folders(process)))
        assert leaves_nothing(process, signal.SIGINT) == 130


def test_a_demo_that_is_killed_takes_its_processes_along_and_the_next_start_clears_up() -> None:
    with started("demo", "--products", "50", "--stores", "1") as process:
        line(process, "start web")
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(family, timeout=PATIENCE)
        assert [member for member in alive if member.status() != psutil.STATUS_ZOMBIE] == []
        with started("services") as next_one:
            line(next_one, "Ready")
            assert folders(process) == []
            assert leaves_nothing(next_one, signal.SIGINT) == 0


def test_up_shows_real_numbers_that_move_and_ends_on_ctrl_c() -> None:
    with started("up", "--products", "100", "--stores", "2", "--rate", "30") as process:
        found = ADDRESS.search(line(process, "Dashboard"))
        typed = SIGN_IN.search(line(process, "Sign in"))
        assert found
        assert typed
        with httpx.Client(base_url=found[0], timeout=PATIENCE) as client:
            client.post("/sign-in", data=typed.groupdict(), headers={"Origin": found[0]})
            until(lambda: movements(client) > 0)
            page = client.get("/")
            assert page.status_code == 200
            assert re.search(r"<dt>stock movements</dt><dd>[\d,]*[1-9]", page.text)
            before = movements(client)
            until(lambda: movements(client) > before)
        assert leaves_nothing(process, signal.SIGINT) == 0


def movements(client: httpx.Client) -> int:
    """Return how many stock movements the dashboard counts."""
    return int(client.get("/api/v1/overview").raise_for_status().json()["overview"]["totals"]["movements"])


def test_up_that_is_interrupted_before_it_is_up_leaves_nothing() -> None:
    with started("up", "--products", "50", "--stores", "1") as process:
        until(lambda: any(list(folder.glob("*/*.pid")) for folder in folders(process)))
        assert leaves_nothing(process, signal.SIGINT) == 0


def test_the_processes_of_the_procfile_run_on_the_services_against_upstreams_of_ones_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sandbox", "services", "--root", str(tmp_path / "data")]
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as services,
        Upstreams.start(products=40, stores=1) as upstreams,
    ):
        assert services.stdout is not None
        addresses = dict(services.stdout.readline().strip().split("=", 1) for _ in range(3))
        fleet = Fleet(
            tmp_path / "logs",
            {**addresses, "WAREHOUSE_URL": upstreams.warehouse_url, "WAREHOUSE_TOKEN": upstreams.token, "PORT": "0"},
        )
        try:
            headrace(addresses, "migrate")
            for kind in ("web", "scheduler", "relay", "worker"):
                fleet.start(kind)
            done = headrace(addresses, "run", "warehouse.sync", "--wait", "--timeout", str(PATIENCE))
            assert json.loads(done)["products"]["seen"] == 40
            kinds = {process["kind"] for process in json.loads(headrace(addresses, "processes", "--json"))}
            assert kinds == {"web", "scheduler", "relay", "worker"}
        finally:
            fleet.close()
            services.terminate()
    assert services.returncode == 0


def headrace(variables: dict[str, str], *arguments: str) -> str:
    """Run a command that must succeed; return what it printed."""
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **variables}
    command = [str(Path(sys.executable).parent / "headrace"), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
