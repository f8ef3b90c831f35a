"""Making a whole new generation while life goes on.

A new index joins the write set before the first product is read, so live changes flow to the old and the new one. The
walk goes by id in small fresh reads and notes how far it came: whoever continues after a crash starts there. Then the
new index is compared with the database, what differs is marked and delivered, until nothing differs; only then the
alias moves. The index that was live stays behind, is still told everything, and is the way back.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text, update

from integrations import NotFound, Rejected, Throttled
from integrations.elasticsearch import Elasticsearch
from jobs._context import Context
from jobs._documents import MAPPING_HASH, NEXT_IDS
from jobs._generations import Sight, build_lock, create, look, move, promote, reconcile, sweep
from jobs._search_changes import drain, forget
from jobs._search_delivery import deliver
from jobs._search_differences import compare, mark
from jobs._signals import Cancel
from models import Generation

#: Products read and sent at once.
BATCH = 1_000
#: Times that a new index may differ before we give up on it for now.
ROUNDS = 10
#: Seconds the search server gets to catch its breath when it asks for it.
BREATH = 5.0
#: Seconds that an operator's wish waits for the build lock: `ensure` holds it for a moment when it mends something.
PATIENCE = 2.0
#: Refused documents that a new index may have before it must not replace a good one.
FEW_REJECTS, SHARE_OF_REJECTS = 20, 0.01

_TOTAL = text("SELECT count(*) FROM products WHERE deleted_at IS NULL")
_DONE = text("SELECT count(*) FROM products WHERE deleted_at IS NULL AND id <= :after")
_REJECTS = text("SELECT count(*) FROM search_rejects WHERE generation_id = :generation")


class NotEqual(Exception):  # noqa: N818 - reads as what it is in a message
    """A new index does not become equal to the database; the live one stays."""


@contextmanager
def surviving_a_loss() -> Iterator[None]:
    """Come back soon when an index vanishes in the middle of the work, as it does when the search server restarts."""
    try:
        yield
    except NotFound as gone:
        raise Throttled(
            f"the search server lost an index while it was worked on: we start over in a moment ({gone})",
            upstream=Elasticsearch.name,
            retry_after=BREATH,
        ) from gone


@surviving_a_loss()
def ensure(context: Context) -> bool:
    """Make sure that searches have a complete index; build one if the search server has forgotten it.

    Returns:
        Whether a generation was built. False when all was well, or somebody else is building already.
    """
    if look(context).intact:
        return False
    with build_lock(context) as ours:
        if not ours:
            return False
        found = reconcile(context)
        if found.one("live") is not None:
            return False
        context.log("the search server has no index of ours: building one from the database")
        build(context, found)
    return True


@surviving_a_loss()
def rebuild_all(context: Context) -> Generation:
    """Build a new generation and let it replace the live one.

    Raises:
        Cancel: Another process is at it.
    """
    with build_lock(context, patience=PATIENCE) as ours:
        if not ours:
            raise Cancel("a rebuild is already running: `headrace search status` shows how far it is")
        return build(context, reconcile(context))


@surviving_a_loss()
def go_back(context: Context) -> tuple[Generation, Generation]:
    """Point searches back at the previous generation; returns the one they left and the one they see now.

    Raises:
        Cancel: There is no previous generation, or a rebuild is running.
    """
    with build_lock(context, patience=PATIENCE) as ours:
        if not ours:
            raise Cancel("a rebuild is running: cancel it or wait for its end, then roll back")
        found = reconcile(context)
        live, previous = found.one("live"), found.one("previous")
        if live is None or previous is None:
            raise Cancel("there is no previous generation to go back to: `headrace search rebuild` makes a new one")
        promote(context, previous)
    return live, previous


def build(context: Context, found: Sight) -> Generation:
    """Take a new generation from nothing to live; call it with the build lock held."""
    generation = _resume(context, found) or _begin(context, found)
    _scan(context, generation)
    _refuse_too_many_rejects(context, generation, found)
    _equalise(context, generation)
    promote(context, generation)
    sweep(context)
    context.log(f"searches now see {generation.index}")
    return generation


def _resume(context: Context, found: Sight) -> Generation | None:
    unfinished = found.one("building")
    if unfinished is None:
        return None
    if unfinished.mapping_hash == found.indices[unfinished.index] == MAPPING_HASH:
        context.log(f"continuing {unfinished.index} after product {unfinished.scanned_to}")
        return unfinished
    move(context, unfinished, "failed")
    return None


def _begin(context: Context, found: Sight) -> Generation:
    made = create(context)
    if found.one("live") is None and found.one("previous") is None:
        forget(context)  # what changed before this moment is read by the walk
    return made


def _scan(context: Context, generation: Generation) -> None:
    """Deliver every product to the new generation, from its checkpoint on."""
    after = generation.scanned_to
    with context.transaction() as session:
        total = session.execute(_TOTAL).scalar_one()
        done = session.execute(_DONE, {"after": after}).scalar_one()
    while ids := _next_ids(context, after):
        context.check()
        if deliver(context, ids, [generation]).retry:
            raise Throttled(
                f"elasticsearch cannot take more documents into {generation.index} now: the rebuild goes on from"
                f" product {after} in a moment; if this persists, look at the cluster's load and disks.",
                upstream=Elasticsearch.name,
                retry_after=BREATH,
            )
        after, done = ids[-1], done + len(ids)
        with context.transaction() as session:
            session.execute(update(Generation).where(Generation.id == generation.id).values(scanned_to=after))
        context.progress(done, max(done, total), f"reading products into {generation.index}")


def _next_ids(context: Context, after: int) -> list[int]:
    with context.transaction() as session:
        return list(session.execute(NEXT_IDS, {"after": after, "most": BATCH}).scalars())


def _refuse_too_many_rejects(context: Context, generation: Generation, found: Sight) -> None:
    if found.one("live") is None:
        return  # searches that miss some products beat searches that fail
    with context.transaction() as session:
        total = session.execute(_TOTAL).scalar_one()
        rejects = session.execute(_REJECTS, {"generation": generation.id}).scalar_one()
    if rejects > max(FEW_REJECTS, SHARE_OF_REJECTS * total):
        move(context, generation, "failed")
        sweep(context)
        raise Rejected(
            f"{rejects} of {total} products were refused by the new index: the live one stays;"
            " the log of this run tells why they were refused",
            upstream=Elasticsearch.name,
            status=0,
        )


def _equalise(context: Context, generation: Generation) -> None:
    """Compare and repair until the new generation equals the database."""
    drift = 0
    for number in range(1, ROUNDS + 1):
        drain(context)
        found = compare(context, generation)
        context.progress(found.documents, found.products, f"verified {generation.index}, round {number}")
        if not found.drift:
            return
        drift = len(found.drift)
        context.log(f"{drift} products differ in {generation.index}: delivering them again", **found.summary())
        mark(context, found.drift)
    raise NotEqual(f"{generation.index} still differs in {drift} products after {ROUNDS} rounds: the live index stays")
