"""Stripe's objects as we last saw them: of two looks at one object the later drawn stays.

Before an object is looked at, a number is drawn from the database, in a transaction of its own. What was seen is kept
if its number is higher than the one that is there. Two looks may overlap and the later drawn one may have read the
older state; whatever changed after its reading brings another event, and so another look. No clock is compared.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints, ValidationError, model_validator
from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from integrations import Unavailable
from integrations.stripe import Kind, Stripe
from jobs._context import Context
from jobs._signals import Cancel

DRAW = text("SELECT nextval('observations')")
ORDER = "(SELECT id FROM orders WHERE reference = :reference)"


def _id_of(value: Any) -> Any:
    """Return the id of what may have been sent whole."""
    return value.get("id") if isinstance(value, dict) else value


Minor = Annotated[int, Field(ge=0)]
Linked = Annotated[str | None, BeforeValidator(_id_of)]


class Snapshot(BaseModel):
    """What we keep of any object. The columns of its table are the fields, except those that only find the order."""

    table: ClassVar[str]
    kind: ClassVar[Kind]

    id: str
    status: str
    amount: Minor
    #: Stripe writes it small; ISO and our tables write it large.
    currency: Annotated[str, StringConstraints(to_upper=True, pattern=r"^[A-Za-z]{3}$")]

    @property
    def reference(self) -> str | None:
        """Our name of the order it belongs to, if it carries one."""
        return None


class OfAnOrder(Snapshot):
    """An object that carries the name of an order."""

    metadata: dict[str, str] = Field(default_factory=dict)

    @property
    def reference(self) -> str | None:
        return self.metadata.get("order_id")


class SeenSession(OfAnOrder):
    """A checkout session."""

    table: ClassVar[str] = "checkout_sessions"
    kind: ClassVar[Kind] = "checkout.session"

    amount: Minor = Field(alias="amount_total")
    payment_status: str
    intent_status: str | None = None
    payment: Linked = Field(default=None, alias="payment_intent")
    client_reference_id: str | None = None
    url: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_status(cls, fetched: Any) -> Any:
        """Take the status of the payment from where it was sent whole."""
        intent = fetched.get("payment_intent")
        return {**fetched, "intent_status": intent.get("status") if isinstance(intent, dict) else None}

    @property
    def reference(self) -> str | None:
        return self.client_reference_id or super().reference


class SeenPayment(OfAnOrder):
    """A payment intent."""

    table: ClassVar[str] = "payments"
    kind: ClassVar[Kind] = "payment_intent"

    amount_received: Minor = 0


class SeenRefund(Snapshot):
    """A refund."""

    table: ClassVar[str] = "refunds"
    kind: ClassVar[Kind] = "refund"

    payment: Linked = Field(default=None, alias="payment_intent")


class SeenDispute(Snapshot):
    """A dispute."""

    table: ClassVar[str] = "disputes"
    kind: ClassVar[Kind] = "dispute"

    payment: Linked = Field(default=None, alias="payment_intent")


KINDS: Mapping[str, type[Snapshot]] = {
    model.kind: model for model in (SeenSession, SeenPayment, SeenRefund, SeenDispute)
}
#: What is sent whole with an object, because both must be seen in one look.
EXPAND: Mapping[str, Sequence[str]] = {"checkout.session": ["payment_intent"]}
_LOOKUPS = {"id", "metadata", "client_reference_id", "url"}


def columns(model: type[Snapshot]) -> list[str]:
    """Return the columns that come from the object itself."""
    return [name for name in model.model_fields if name not in _LOOKUPS]


def _keep(model: type[Snapshot]) -> TextClause:
    names = columns(model)
    given = {name: f":{name}" for name in names} | ({"order_id": ORDER} if issubclass(model, OfAnOrder) else {})
    # What once belonged to an order stays there, whatever becomes of the name it carried.
    moved = ", ".join(
        f"{name} = coalesce(t.{name}, excluded.{name})" if name == "order_id" else f"{name} = excluded.{name}"
        for name in given
    )
    return text(f"""
        INSERT INTO {model.table} AS t (source_id, {", ".join(given)}, observation, observed_at)
        VALUES (:id, {", ".join(given.values())}, :observation, now())
        ON CONFLICT (source_id) DO UPDATE SET {moved}, observation = excluded.observation,
            observed_at = excluded.observed_at, updated_at = now(), deleted_at = NULL
        WHERE excluded.observation > t.observation
        RETURNING id
    """)


def _bury(model: type[Snapshot]) -> TextClause:
    return text(f"""
        UPDATE {model.table}
        SET deleted_at = now(), updated_at = now(), observation = :observation, observed_at = now()
        WHERE source_id = :id AND observation < :observation RETURNING id
    """)


def _held(model: type[Snapshot]) -> TextClause:
    return text(f"""
        SELECT source_id, {", ".join(columns(model))} FROM {model.table}
        WHERE source_id = ANY(:ids) AND deleted_at IS NULL
    """)


KEEP = {kind: _keep(model) for kind, model in KINDS.items()}
BURY = {kind: _bury(model) for kind, model in KINDS.items()}
HELD = {kind: _held(model) for kind, model in KINDS.items()}


def draw(context: Context) -> int:
    """Draw the number of a look that begins after this; a transaction of its own, so it is older than the look."""
    with context.transaction() as session:
        return int(session.execute(DRAW).scalar_one())


def is_followed(kind: str, fetched: Mapping[str, Any]) -> bool:
    """Whether an object is of the sort that orders depend on: a session may also be for a subscription, or a card."""
    return kind != SeenSession.kind or fetched.get("mode") == "payment"


def read(kind: str, fetched: Mapping[str, Any]) -> Snapshot:
    """Return what we keep of an object.

    Raises:
        Unavailable: It lacks what we need.
    """
    try:
        return KINDS[kind].model_validate(fetched)
    except ValidationError as error:
        fields = ", ".join(str(one["loc"][0]) for one in error.errors(include_input=False) if one["loc"])
        raise Unavailable(
            f"stripe showed a {kind} without a usable {fields}: it is asked again later; if this persists,"
            " check the API version",
            upstream=Stripe.name,
        ) from None


def known(kind: str) -> Kind:
    """Return a kind that we follow.

    Raises:
        Cancel: We do not.
    """
    if kind not in KINDS:
        raise Cancel(f"{kind} is no kind of object that we follow: {', '.join(KINDS)} are")
    return KINDS[kind].kind


def unseen_payment(session: Session, snapshot: Snapshot) -> str | None:
    """Return the payment that a refund or a dispute belongs to if we have never seen it."""
    if not isinstance(snapshot, SeenRefund | SeenDispute) or snapshot.payment is None:
        return None
    seen = session.execute(HELD[SeenPayment.kind], {"ids": [snapshot.payment]}).first() is not None
    return None if seen else snapshot.payment


def keep(session: Session, snapshot: Snapshot, observation: int) -> bool:
    """Keep a snapshot unless a later look is there already; say whether it was kept."""
    values = snapshot.model_dump(include={"id", *columns(type(snapshot))})
    values |= {"observation": observation, "reference": snapshot.reference}
    return session.execute(KEEP[snapshot.kind], values).first() is not None


def bury(session: Session, kind: str, object_id: str, observation: int) -> bool:
    """Note that an object is gone, unless a later look is there already."""
    return session.execute(BURY[kind], {"id": object_id, "observation": observation}).first() is not None


def changed(session: Session, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """Return those of one kind that are not as we hold them."""
    if not snapshots:
        return []
    model = type(snapshots[0])
    names = columns(model)
    rows = session.execute(HELD[model.kind], {"ids": [one.id for one in snapshots]})
    held = {row[0]: tuple(row[1:]) for row in rows}
    return [one for one in snapshots if held.get(one.id) != tuple(getattr(one, name) for name in names)]
