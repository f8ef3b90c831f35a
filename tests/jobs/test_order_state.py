"""What an order is depends on what Stripe shows, and on nothing of the way in which the news came."""

from functools import cache
from itertools import permutations
from random import Random
from typing import Any

import pytest

from jobs._order_state import Facts, Judged, Money, SessionFacts, is_shipped, judge, stock_of
from models import OrderState, StockState
from tests.docs import documents
from tests.docs.documents import ROOT

PAGE = ROOT / "docs" / "orders.md"
S = OrderState


def session(status: str, payment_status: str = "unpaid", intent: str | None = None, amount: int = 1000) -> SessionFacts:
    return SessionFacts(status, amount, "USD", payment_status, intent)


def money(status: str, amount: int = 1000, currency: str = "USD") -> Money:
    return Money(status, amount, currency)


OPEN, PAID = session("open"), session("complete", "paid", "succeeded")
RECEIVED = money("succeeded")

CASES: list[tuple[OrderState, dict[str, Any]]] = [
    (S.PENDING, {}),
    (S.PENDING, {"sessions": [OPEN]}),
    (S.PENDING, {"sessions": [OPEN], "payments": [money("requires_payment_method", 0)]}),
    (S.PENDING, {"sessions": [OPEN], "given_up": True}),
    (S.EXPIRED, {"given_up": True}),
    (S.EXPIRED, {"sessions": [session("expired")]}),
    (S.EXPIRED, {"sessions": [session("expired")], "payments": [money("canceled", 0)]}),
    (S.CANCELED, {"sessions": [OPEN], "payments": [money("canceled", 0)]}),
    (S.AWAITING_PAYMENT, {"sessions": [session("complete", intent="processing")]}),
    # An old look at the payment says nothing about a session that was completed after it.
    (
        S.AWAITING_PAYMENT,
        {
            "sessions": [session("complete", intent="processing")],
            "payments": [money("requires_payment_method", 0)],
        },
    ),
    (S.PAYMENT_FAILED, {"sessions": [session("complete", intent="requires_payment_method")]}),
    (S.PAID, {"sessions": [PAID]}),
    (S.PAID, {"payments": [RECEIVED]}),
    (S.PAID, {"sessions": [OPEN], "payments": [RECEIVED]}),
    (S.PAID, {"sessions": [PAID], "payments": [money("processing", 0)]}),
    (S.PAID, {"payments": [RECEIVED], "refunds": [money("failed")]}),
    (S.PAID, {"payments": [RECEIVED], "disputes": [money("won"), money("warning_closed"), money("prevented")]}),
    (S.HELD, {"payments": [money("succeeded", 999)]}),
    (S.HELD, {"payments": [money("succeeded", 1000, "EUR")]}),
    (S.HELD, {"payments": [RECEIVED, RECEIVED]}),
    (S.HELD, {"sessions": [session("complete", "paid", amount=1)]}),
    (S.HELD, {"payments": [money("succeeded", 1200)], "refunds": [money("succeeded", 100)]}),
    (S.PARTIALLY_REFUNDED, {"payments": [money("succeeded", 1200)], "refunds": [money("succeeded", 200)]}),
    (S.PARTIALLY_REFUNDED, {"payments": [RECEIVED], "refunds": [money("pending", 400), money("succeeded", 300)]}),
    (S.REFUNDED, {"payments": [RECEIVED], "refunds": [money("pending", 400), money("succeeded", 600)]}),
    (S.REFUNDED, {"payments": [money("succeeded", 999)], "refunds": [money("succeeded", 999)]}),
    (S.DISPUTED, {"payments": [RECEIVED], "disputes": [money("needs_response")]}),
    (S.DISPUTED, {"payments": [RECEIVED], "disputes": [money("lost"), money("appeal_under_review")]}),
    (S.DISPUTED, {"payments": [RECEIVED], "disputes": [money("a_word_of_next_year")], "refunds": [RECEIVED]}),
    (S.DISPUTE_LOST, {"payments": [RECEIVED], "disputes": [money("lost"), money("won")]}),
]


@pytest.mark.parametrize(("state", "seen"), CASES)
def test_what_stripe_shows_makes_the_order(state: OrderState, seen: dict[str, Any]) -> None:
    judged = judge(Facts(1000, "USD", **seen))
    assert judged.state is state
    assert (judged.reason is not None) == (state is S.HELD)


def test_nothing_to_pay_is_paid() -> None:
    assert judge(Facts(0, "USD", sessions=[session("complete", "no_payment_required", amount=0)])).state is S.PAID


def test_the_money_is_counted() -> None:
    judged = judge(Facts(1000, "USD", payments=[RECEIVED], refunds=[money("pending", 100), money("failed", 900)]))
    assert judged == Judged(S.PARTIALLY_REFUNDED, received=1000, refunded=100)


def test_the_document_says_of_each_state_what_becomes_of_the_stock_and_whether_it_is_shipped() -> None:
    told = [tuple(cell.strip("` ") for cell in (row[0], row[2], row[3])) for row in documents.rows(PAGE, "state")]
    stock = [(state, stock_of(state, handed=False), stock_of(state, handed=True)) for state in OrderState]
    said = [(s, a if a == b else f"{a}, {b} once handed over", "yes" if is_shipped(s) else "no") for s, a, b in stock]
    assert sorted(told) == sorted(said)
    assert {state for state, _ in CASES} == set(OrderState)
    assert stock_of(S.PENDING, handed=False) is StockState.HELD


#: Eight events, each with the object that it tells of and what that object was then.
HISTORY: list[tuple[str, Any]] = [
    ("payment", money("requires_payment_method", 0)),
    ("payment", money("processing", 0)),
    ("payment", RECEIVED),
    ("session", session("complete", intent="processing")),
    ("session", PAID),
    ("refund", money("pending", 400)),
    ("refund", money("succeeded", 400)),
    ("dispute", money("won")),
]
VERSIONS = {name: [index for index, (of, _) in enumerate(HISTORY) if of == name] for name, _ in HISTORY}


@cache
def judged(seen: tuple[tuple[str, int], ...]) -> Judged:
    """Judge an order by the versions of its objects."""
    found = {name: (HISTORY[index][1],) for name, index in seen}
    sessions, payments = found.get("session", (OPEN,)), found.get("payment", ())
    facts = Facts(1000, "USD", sessions, payments, found.get("refund", ()), found.get("dispute", ()))
    return judge(facts)


def outcome(order: tuple[int, ...], dice: Random) -> tuple[Judged, int]:
    """Hear events in an order, some of them twice, and return what the order is then and how often it was shipped.

    Each causes a look. It sees what the events say that have come, for those things have happened, and perhaps what no
    event has told of yet. A look may be written after a later drawn one: then it is dropped.
    """
    heard = [event for event in order for _ in range(1 + (dice.random() < 0.3))]
    heard.insert(dice.randrange(len(heard) + 1), dice.choice(order))
    happened: dict[str, int] = {}
    looks: list[tuple[int, str, int]] = []
    for number, event in enumerate(heard):
        name = HISTORY[event][0]
        happened[name] = max(happened.get(name, 0), event)
        later = [version for version in VERSIONS[name] if version >= happened[name]]
        looks.append((number, name, later[0] if dice.random() < 0.7 else dice.choice(later)))
        happened[name] = max(happened[name], looks[-1][2])
    for place in range(0, len(looks) - 1, 2):
        if dice.random() < 0.3:
            looks[place], looks[place + 1] = looks[place + 1], looks[place]
    return written(looks)


def written(looks: list[tuple[int, str, int]]) -> tuple[Judged, int]:
    kept: dict[str, tuple[int, int]] = {}
    fulfilments: set[int] = set()
    for number, name, version in looks:
        if number > kept.get(name, (-1, 0))[0]:
            kept[name] = (number, version)
        found = judged(tuple(sorted((name, version) for name, (_, version) in kept.items())))
        if is_shipped(found.state):
            fulfilments.add(1)
    return found, len(fulfilments)


def test_all_40320_orders_of_eight_events_with_duplicates_make_the_same_order() -> None:
    dice = Random(8)
    ends = {outcome(order, dice) for order in permutations(range(len(HISTORY)))}
    assert ends == {(Judged(S.PARTIALLY_REFUNDED, received=1000, refunded=400), 1)}
