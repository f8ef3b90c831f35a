"""The stand-ins as a process: up quickly, frozen and thawed, and gone when whoever started them is gone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from sandbox.upstreams import Upstreams
from sandbox.upstreams.catalogue import read

ROOT = Path(__file__).resolve().parents[2]
OWNER = """
import sys
from sandbox.upstreams import Upstreams
print(Upstreams.start(products=1, stores=1).pid, flush=True)
sys.stdin.read()
"""


def test_the_child_dies_with_its_parent_even_when_that_is_killed() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    child = psutil.Process(int(owner.stdout.readline()))
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    _, alive = psutil.wait_procs([child], timeout=20)
    assert not alive or all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_a_stopped_stand_in_comes_back_at_the_same_port_with_the_same_stock() -> None:
    with Upstreams.start(products=3, stores=2) as first:
        before = [level["on_hand"] for level in first.admin.levels()]
        port = first.port
    with pytest.raises(httpx.ConnectError):
        httpx.get(first.warehouse_url)
    with Upstreams.start(products=3, stores=2, port=port) as second:
        assert second.warehouse_url == first.warehouse_url
        assert [level["on_hand"] for level in second.admin.levels()] == before
        second.kill()


def test_a_paused_stand_in_answers_nothing_and_forgets_nothing() -> None:
    with Upstreams.start(products=3, stores=2) as upstreams:
        upstreams.admin.sell(5)
        upstreams.pause()
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{upstreams.warehouse_url}/admin/stats", timeout=0.3)
        upstreams.resume()
        assert upstreams.admin.stats()["live"]["sold"] == 5


def test_a_stand_in_that_cannot_start_says_so() -> None:
    with pytest.raises(RuntimeError, match="ended at start"):
        Upstreams.start(products=0)


def test_a_level_opens_with_the_same_stock_however_much_is_served() -> None:
    with Upstreams.start(products=3, stores=20) as few, Upstreams.start(products=50, stores=20) as many:
        wanted = {level["id"]: level["on_hand"] for level in few.admin.levels()}
        served = {level["id"]: level["on_hand"] for level in many.admin.levels()}
    assert wanted.items() <= served.items()


def test_the_best_sellers_of_the_busiest_stores_are_chosen() -> None:
    catalogue = read(products=100, stores=3)
    assert catalogue.stores == [356, 367, 406]
    assert len(catalogue.sales) > 5_000
    assert [product.number for product in catalogue.products] == sorted(
        product.number for product in catalogue.products
    )
    with pytest.raises(ValueError, match="92331"):
        read(products=92_332, stores=1)


def test_twenty_five_thousand_levels_are_walked_in_a_few_seconds() -> None:
    with (
        Upstreams.start() as upstreams,
        httpx.Client(
            base_url=upstreams.warehouse_url, headers={"Authorization": f"Bearer {upstreams.token}"}
        ) as client,
    ):
        started, seen, url = time.monotonic(), 0, "/v1/inventory-levels?limit=500"
        while url:
            answer = client.get(url)
            seen += len(answer.json()["data"])
            url = answer.links.get("next", {}).get("url", "")
        assert seen == 25_000
        assert time.monotonic() - started < 20
