"""The running whole: one for each module of tests, with the warehouse synced and indexed."""

from collections.abc import Iterator

import pytest

from sandbox.stage import Stage
from tests.workers.asking import told


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Everything running: services, stand-ins, one process of each kind; synced and settled."""
    with Stage.start("acceptance", products=400, stores=3) as running:
        running.start_all()
        told(running.environment, "run", "warehouse.sync", "--wait")
        running.settle()
        yield running


@pytest.fixture(autouse=True)
def _nothing_left_broken(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did to the whole, the next one finds all members up and no fault switched on."""
    yield
    if "stage" in request.fixturenames:
        whole: Stage = request.getfixturevalue("stage")
        whole.upstreams.admin.reset_faults()
        whole.fleet.supervise()
