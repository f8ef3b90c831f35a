"""Importing as an operator types it: a dry run, the run, and a file that is none."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from sandbox.services import Services
from tests.jobs.checkouts import stock
from tests.workers.asking import asked, told


@pytest.fixture
def variables(services: Services, database_url: str, engine: Engine) -> dict[str, str]:
    """What the command line reads, with one level in the database."""
    with Session(engine) as session, session.begin():
        stock(session, "TEA", 1)
    return {**services.environment(), "DATABASE_URL": database_url}


def test_a_file_is_tried_taken_in_and_known_again(variables: dict[str, str], engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "count.csv"
    file.write_bytes("\ufeffSKU;Location;On_Hand\r\nTEA;loc_1;12\r\n".encode())
    tried = json.loads(told(variables, "import", "stock", str(file), "--dry-run"))
    assert (tried["changed"], tried["quarantined"], tried["dry_run"]) == (1, 0, True)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM runs")).scalar() == 0
    taken = json.loads(told(variables, "import", "stock", str(file), "--no-wait", "--json", "--by", "kim"))
    with engine.begin() as connection:
        run = connection.execute(text("SELECT job, args FROM runs WHERE id = :id"), {"id": taken["id"]}).one()
        assert tuple(run) == ("imports.stock", {"file_id": taken["file"]})
        audit = connection.execute(text("SELECT actor, action FROM audit ORDER BY id DESC LIMIT 1")).one()
        assert tuple(audit) == ("kim", "import stock")
        connection.execute(text("UPDATE stock_files SET finished_at = now()"))
    assert "nothing was changed" in told(variables, "import", "stock", str(file))
    file.write_bytes(b"sku,location,on_hand\nTEA,loc_1\n")
    refused = asked(variables, "import", "stock", str(file))
    assert (refused.returncode, "line 2 has 2 cells" in refused.stderr) == (2, True)
