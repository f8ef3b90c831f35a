"""Counted stock over the API: the file as the body, then a run, or the reason why not."""

import httpx
from sqlalchemy import Engine, text

from tests.web.people import SECRETS

FILE = b"sku,location,on_hand\nTEA,loc_1,12\n"


def give(anybody: httpx.Client, content: bytes, name: str = "count.csv") -> httpx.Response:
    token = {"Authorization": f"Bearer {SECRETS['operator']}"}
    return anybody.post("/api/v1/imports/stock", params={"name": name}, content=content, headers=token)


def test_a_file_becomes_a_run_once_and_one_that_is_none_is_refused_with_the_line(
    anybody: httpx.Client, engine: Engine
) -> None:
    taken = give(anybody, FILE)
    assert taken.status_code == 202
    assert give(anybody, FILE).json()["run"] == taken.json()["run"]
    with engine.begin() as connection:
        run = connection.execute(text("SELECT job, args FROM runs")).one()
        assert tuple(run) == ("imports.stock", {"file_id": taken.json()["file"]})
        assert set(connection.execute(text("SELECT actor FROM audit")).scalars()) == {"operator"}
        assert connection.execute(text("SELECT content FROM stock_file_parts")).scalars().all() == [FILE]
        connection.execute(text("UPDATE stock_files SET finished_at = now()"))
    again = give(anybody, FILE, name="the same\nagain.csv")
    assert (again.status_code, again.json()["run"]) == (200, None)
    refused = give(anybody, FILE + b"TEA,loc_1\n")
    assert (refused.status_code, "line 3 has 2 cells" in refused.json()["detail"]) == (422, True)
