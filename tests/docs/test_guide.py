"""The guide to a new integration, done as it says: its files beside ours, its settings, its job, its partner."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from models import Quarantine, StockLevel
from sandbox.services import Services
from tests.docs import documents
from tests.docs.documents import ROOT
from tests.partners.serving import Response, serving

GUIDE = ROOT / "docs" / "adding_an_integration.md"
PACKAGES = ("integrations", "jobs", "models", "web", "workers")
RUN = """
import jobs
from workers import settings
from workers.runtime import Runtime

class Silent:
    def line(self, *_): pass
    def progress(self, *_): pass

job = jobs.load()["depot.sync"]
with Runtime(settings.load()) as held:
    context = jobs.Context(1, 1, job.name, None, held.sessions, held.use, Silent())
    print(job.function.__module__, job.function(context)["stock_levels"])
"""


def checkout(folder: Path) -> list[Path]:
    """Copy what we have, add the files of the guide, and return those."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "static"))
    added = []
    for block in documents.blocks(GUIDE, "python"):
        place = re.match(r'"""([\w/]+\.py): ', block)
        assert place is not None
        added.append(folder / place[1])
        assert not added[-1].exists()  # adding touches no existing file
        added[-1].write_text(block)
    return added


def test_the_guide_to_a_new_integration_does_what_it_says(
    services: Services, database_url: str, engine: Engine, tmp_path: Path
) -> None:
    assert [path.name for path in checkout(tmp_path)] == ["depot.py", "depot.py"]
    answer = json.loads(documents.blocks(GUIDE, "json")[0])
    with engine.begin() as connection:
        connection.execute(
            text("""INSERT INTO products (source_id, sku, name, source_version, source_updated_at)
                    SELECT sku, sku, sku, 1, now() FROM unnest(ARRAY['TEA-GREEN', 'TEA-BLACK']) AS t(sku)""")
        )
    with serving({"GET /v1/stock": lambda _: Response(answer)}) as depot:
        lines = dict(line.split("=", 1) for line in documents.blocks(GUIDE, "env")[0].splitlines())
        variables = {**services.environment(), "DATABASE_URL": database_url, **lines, "DEPOT_URL": depot.url}
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        done = subprocess.run(
            [sys.executable, "-c", RUN], cwd=tmp_path, env=kept | variables, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("jobs.depot {'seen': 3, 'changed': 2, ")
    assert depot.asked[0].headers["x-depot-key"] == lines["DEPOT_TOKEN"]
    with Session(engine) as session:
        levels = session.scalars(select(StockLevel).order_by(StockLevel.source_id))
        assert [(level.source_id, level.on_hand) for level in levels] == [("depot/4711", 12), ("depot/4713", 3)]
        (aside,) = session.scalars(select(Quarantine))
        assert (aside.external_id, "on_hand" in aside.reason) == ("depot/4712", True)
