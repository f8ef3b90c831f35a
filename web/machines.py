"""What machines ask: is the process there, may it get traffic, is everything well, and the numbers."""

from dataclasses import dataclass
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from web import health
from web.health import Check, Status, Verdict
from web.problems import Problem
from web.pulse import Pulse, Snapshot
from workers.census import as_json


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything that the overview page shows."""

    status: Status
    checks: list[Check]
    overview: Snapshot
    #: Documents that searches see; empty when no index is live or it does not answer.
    documents: int | None


class Machines:
    """The endpoints for load balancers, monitors and programs.

    Args:
        pulse: Looks at everything.
        registry: Metrics of this process and of the census.
    """

    def __init__(self, pulse: Pulse, registry: CollectorRegistry) -> None:
        self._pulse = pulse
        self._registry = registry

    async def live(self) -> Response:
        """Say that the process is there, whatever else is broken."""
        return PlainTextResponse("alive\n")

    def ready(self) -> Response:
        """Answer 200 when Postgres answers and has the tables that this code needs, else 503."""
        obstacle = self._pulse.ready()
        if obstacle is None:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready: Postgres is away or not migrated, see /health\n", 503)

    def health(self) -> Response:
        """Give the verdict with all its checks; 503 when it is red."""
        verdict = health.judge(self._pulse.look())
        return JSONResponse(_checks(verdict), 503 if verdict.status is Status.RED else 200)

    def metrics(self) -> Response:
        """Give the numbers in Prometheus' format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def overview(self) -> Response:
        """Everything the overview page shows: the verdict, runs, queues, schedules, streams, index, processes."""
        sight = self._pulse.look()
        verdict = health.judge(sight)
        if sight.snapshot is None:
            return Problem(503, verdict.troubles[0].detail, headers={"Retry-After": "5"})
        return JSONResponse(as_json(Overview(verdict.status, verdict.checks, sight.snapshot, sight.documents)))


def _checks(verdict: Verdict) -> dict[str, Any]:
    listed = [as_json(check) for check in verdict.checks]
    for check in listed:
        if check["since"] is None:
            del check["since"]
    return {"status": verdict.status, "checks": listed}
