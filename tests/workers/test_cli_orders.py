"""The orders as the command line lists them."""

import json
from collections.abc import Mapping

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from jobs.orders import Cart, checkout
from sandbox.services import Services
from tests.jobs.checkouts import stock
from tests.workers.asking import asked

SEEN = """
    INSERT INTO checkout_sessions (source_id, status, payment_status, payment, amount, currency, observation,
        observed_at, order_id) VALUES ('cs_1', 'complete', 'paid', 'pi_1', 1000, 'USD', 1, now(), 1);
    INSERT INTO payments (source_id, status, amount, amount_received, currency, observation, observed_at, order_id)
    VALUES ('pi_1', 'succeeded', 1000, 1000, 'USD', 2, now(), 1);
    INSERT INTO refunds (source_id, status, payment, amount, currency, observation, observed_at)
    VALUES ('re_1', 'pending', 'pi_1', 100, 'USD', 3, now());
    UPDATE orders SET state = 'held', reason = 'because' WHERE id = 1
"""


@pytest.fixture
def variables(services: Services, database_url: str, engine: Engine) -> Mapping[str, str]:
    """What the command line reads, with two orders in the database."""
    with Session(engine) as session, session.begin():
        stock(session, "TEA", 1, 3)
        for quantity in (2, 1):
            checkout(session, Cart({"TEA": quantity}, "https://shop.example.com"))
        session.connection().exec_driver_sql(SEEN)
    return {**services.environment(), "DATABASE_URL": database_url}


def test_orders_are_listed_by_state_and_shown_with_all_they_were_worked_out_from(variables: Mapping[str, str]) -> None:
    listed = asked(variables, "orders", "list", "--state", "held", "--json")
    (held,) = json.loads(listed.stdout)
    assert (held["id"], held["amount"], held["reason"]) == (1, 1000, "because")
    shown = json.loads(asked(variables, "orders", "show", "1", "--json").stdout)
    assert [one["source_id"] for one in shown["seen"]] == ["cs_1", "pi_1", "re_1"]
    assert [(line["sku"], line["location"], line["stock"]) for line in shown["lines"]] == [("TEA", "loc_2", "held")]
    page = asked(variables, "orders", "show", "1").stdout
    assert all(
        word in page for word in ("1,000 USD", "because", "loc_2: 2 held", "complete, paid", "not to be shipped")
    )


def test_an_order_that_there_is_not_is_said(variables: Mapping[str, str]) -> None:
    refused = asked(variables, "orders", "show", "99")
    assert refused.returncode == 2
    assert "there is no order 99" in refused.stderr
