"""What the integrations are tested against: scripted servers, the stand-in upstreams, the embedded search server."""

from collections.abc import Iterator

import pytest

from sandbox.upstreams import Upstreams
from tests.integrations.scripted import Scripted, scripted_server


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A server that answers by script."""
    with scripted_server() as running:
        yield running


@pytest.fixture(scope="module")
def standing() -> Iterator[Upstreams]:
    """The stand-in upstreams with a small catalogue, shared by a module."""
    with Upstreams.start(products=30, stores=4) as running:
        yield running


@pytest.fixture
def upstreams(standing: Upstreams) -> Iterator[Upstreams]:
    """The stand-in upstreams, behaving well at the start of each test."""
    standing.admin.reset_faults()
    yield standing
    standing.admin.reset_faults()
