"""How many signed webhooks a second are taken in at 64 connections, each answered once its row is on disk.

Ours is one real web process: it checks the signature, writes the event and the run that answers it, and answers after
the commit that requests share. Beside it the receiver that one would write first, Starlette with a pool of psycopg's
and one plain insert for each request; and, as what Postgres can do without any of us, pgbench with the same insert and
as many clients. Neither of them writes a run.
"""

import base64
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sandbox._process import Child
from sandbox.fleet import ROOT
from sandbox.postgres import installation
from tests.benchmarks.contestants import OURS
from tests.benchmarks.plan import Plan
from tests.benchmarks.report import Table, figure, times
from tests.benchmarks.rounds import Figures, ratio, take_turns
from tests.benchmarks.senders import SIZE

TITLE = "Signed webhooks at 64 connections, each answered after its commit"
CONNECTIONS = 64
REQUESTS = 30_000
SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes, yes").decode()
#: Seconds for a server to come up, and for a round.
PATIENCE = 120.0
OURSELVES, PLAIN, BARE = "Headrace", "Starlette, psycopg pool", "pgbench, the same insert"
PROGRAMS = {OURSELVES: "web", PLAIN: "tests.benchmarks.peers.starlette_pool"}
INSERT = """
\\set number random(1, 9000000000000000000)
INSERT INTO events (source, external_id, type, verdict, headers, body)
VALUES ('bare', :number::text, 'inventory_level.updated', 'accepted', '{}', convert_to(:body, 'UTF8'))
ON CONFLICT (source, external_id) DO NOTHING;
"""


def measure(plan: Plan) -> Table:
    """Let all three take in as many."""
    OURS.clean(plan.ground)
    environment = {
        **OURS.environment(plan.ground, "nothing"),
        "PORT": "0",
        "WAREHOUSE_URL": "http://127.0.0.1:9",
        "WAREHOUSE_TOKEN": "made-up",
        "WAREHOUSE_WEBHOOK_SECRETS": SECRET,
    }

    def one(who: str) -> Figures:
        plan.ground.execute(OURS.name, "TRUNCATE events, runs, attempts CASCADE")
        plan.ground.settle(OURS.name)
        count = plan.scaled(REQUESTS)
        return _bench(plan, count) if who == BARE else _received(plan.ground.folder, PROGRAMS[who], environment, count)

    everybody = take_turns([OURSELVES, PLAIN, BARE], one, plan.repeats, plan.say)
    plain, bare = (next(m.median("per second") for m in everybody if m.contestant == name) for name in (PLAIN, BARE))
    table = Table(TITLE, ["", "requests/s", "to Starlette", "to pgbench", "p50 ms", "p99 ms"])
    for measured in everybody:
        rate = measured.median("per second")
        cells = [times(ratio(rate, plain)), times(ratio(rate, bare))]
        cells += [figure(measured.median(name), digits=1) for name in ("p50", "p99")]
        table.add(measured.contestant, figure(rate, failure=measured.failure), *cells)
    return table


def _received(folder: Path, program: str, environment: Mapping[str, str], count: int) -> Figures:
    with _serving(folder, program, environment) as url:
        command = [sys.executable, "-m", "tests.benchmarks.senders", f"{url}/webhooks/warehouse"]
        _sent([*command, str(CONNECTIONS * 4), str(CONNECTIONS), SECRET])  # warm
        told = json.loads(_sent([*command, str(count), str(CONNECTIONS), SECRET]))
    return _figures([1000 * taken for taken in told["latencies"]], told["seconds"])


@contextmanager
def _serving(folder: Path, program: str, environment: Mapping[str, str]) -> Iterator[str]:
    command = [sys.executable, "-m", program]
    server = Child("ingress", command, directory=folder, cwd=ROOT, environment=dict(environment))
    try:
        server.wait_until(lambda: "http://" in server.said(), PATIENCE)
        port = re.search(r"http://localhost:(\d+)", server.said())
        assert port is not None
        yield f"http://127.0.0.1:{port[1]}"
    finally:
        server.stop(signal.SIGTERM)


def _sent(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or "the senders failed")
    return done.stdout.splitlines()[-1]


def _bench(plan: Plan, count: int) -> Figures:
    folder = plan.ground.folder / "pgbench"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "insert.sql").write_text(INSERT)
    each = max(1, count // CONNECTIONS)
    options = [f"--client={CONNECTIONS}", "--jobs=2", f"--transactions={each}", "--protocol=prepared", "--no-vacuum"]
    options += ["--file=insert.sql", f"--define=body={'x' * SIZE}", "--log", "--log-prefix=each"]
    url = plan.ground.database(OURS.name)[0]
    command = [str(installation() / "pginstall" / "bin" / "pgbench"), *options, url]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE)
    rate = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
    if done.returncode or rate is None:
        raise RuntimeError(done.stderr.strip() or "pgbench failed")
    lines = (line for log in folder.glob("each.*") for line in log.read_text().splitlines())
    taken = [int(line.split()[2]) / 1000 for line in lines]
    return _figures(taken, len(taken) / float(rate[1]))


def _figures(milliseconds: list[float], seconds: float) -> Figures:
    cuts = statistics.quantiles(milliseconds, n=100)
    return {"per second": len(milliseconds) / seconds, "p50": cuts[49], "p99": cuts[98]}
