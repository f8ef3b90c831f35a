"""The physical indices behind the alias, and how rows in Postgres and indices in Elasticsearch stay one story.

A generation is built, goes live, stays behind as the previous one (still told everything, so going back is safe),
and is dropped. Its row exists before its index and outlives it, so no index of ours is ever without a row. The
search server may forget everything at any moment, and a process may die between two steps: `reconcile` reads what is
there and makes the rows true again. Only the holder of the build lock moves generations.

Documents are written through an alias of each index's own and with `require_alias`, for a write to a missing index
would make one up. Deletes make one up all the same, so an index is only removed after every batch that may still
write to it has ended: the fence.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic, sleep

from sqlalchemy import Connection, Engine, select, text, update
from sqlalchemy.exc import DBAPIError

from integrations.elasticsearch import Elasticsearch
from jobs._context import Context
from jobs._documents import ALIAS, MAPPING, MAPPING_HASH, SERVING, SETTINGS
from models import Generation

#: States that are told of every change.
WRITTEN = ("building", "live", "previous")

# Keys of advisory locks, in the first half our own space.
_FENCE = "pg_advisory_xact_lock{}(7205, 1)"
_TRY_LOCK = text("SELECT pg_try_advisory_lock(7205, 2)")
_UNLOCK = text("SELECT pg_advisory_unlock(7205, 2)")


@dataclass(frozen=True)
class Sight:
    """What rows and indices say at one moment."""

    generations: Sequence[Generation]
    #: Indices behind the alias.
    alias: Sequence[str]
    #: Indices that are there, each with its mapping hash.
    indices: dict[str, str | None]

    def one(self, state: str) -> Generation | None:
        """Return the generation in this state whose index is there, or None."""
        return next((g for g in self.generations if g.state == state and g.index in self.indices), None)

    @property
    def lost(self) -> list[Generation]:
        """Generations whose index is gone."""
        return [g for g in self.generations if g.index not in self.indices]

    @property
    def intact(self) -> bool:
        """Whether searches reach the live generation and every generation has its index."""
        live = self.one("live")
        return live is not None and list(self.alias) == [live.index] and not self.lost


def write_alias(index: str) -> str:
    """Return the alias through which an index is written."""
    return f"{index}-w"


def write_set(context: Context) -> list[Generation]:
    """Return the generations that are told of every change."""
    with context.transaction() as session:
        found = list(session.scalars(select(Generation).where(Generation.state.in_(WRITTEN)).order_by(Generation.id)))
        session.expunge_all()
    return found


def look(context: Context) -> Sight:
    """Compare rows and indices."""
    return sight(write_set(context), context.use(Elasticsearch))


def sight(generations: Sequence[Generation], elasticsearch: Elasticsearch) -> Sight:
    """Look at the indices that belong to these rows."""
    indices = {name: meta.get("mapping_hash") for name, meta in elasticsearch.indices(f"{ALIAS}-*").items()}
    return Sight(generations, elasticsearch.alias_targets(ALIAS), indices)


@contextmanager
def fenced(context: Context) -> Iterator[None]:
    """While this is held no index that a batch may still write to is removed."""
    with context.transaction() as session:
        session.execute(text(f"SELECT {_FENCE.format('_shared')}"))
        yield


@contextmanager
def build_lock(context: Context, *, patience: float = 0.0) -> Iterator[bool]:
    """Try to become the one that moves generations; yields whether it worked.

    The lock lives as long as a connection of its own, outside of any transaction, so it lasts for hours if need be
    and is gone the moment the process is.

    Args:
        context: The running job.
        patience: Seconds to wait for whoever holds it for a moment only, to look after things.
    """
    engine = context.sessions.kw["bind"]
    if not isinstance(engine, Engine):
        raise TypeError("the job's sessions must be bound to an engine")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()  # closed, not pooled, at the end: nobody inherits a lock
        ours = _try_to_lock(connection, monotonic() + patience)
        try:
            yield ours
        finally:
            if ours:
                with suppress(DBAPIError):  # a connection that is gone holds no lock
                    connection.execute(_UNLOCK)


def _try_to_lock(connection: Connection, deadline: float) -> bool:
    while not connection.execute(_TRY_LOCK).scalar_one():
        if monotonic() >= deadline:
            return False
        sleep(0.05)
    return True


def reconcile(context: Context) -> Sight:
    """Make rows, alias and indices agree; call it with the build lock held.

    An index that is gone makes its row failed. The alias follows the rows: a process that died between swapping it and
    noting so is taken back a step, which nobody sees, since all generations are told of every change.
    """
    found = look(context)
    for generation in found.lost:
        context.log(f"the index {generation.index} is gone from the search server", state=generation.state)
        move(context, generation, "failed")
    live = found.one("live")
    if live is not None and list(found.alias) != [live.index]:
        point_alias(context, live)
    sweep(context)
    return look(context)


def create(context: Context) -> Generation:
    """Make an empty index and take it into the write set."""
    made = Generation(index=f"{ALIAS}-{secrets.token_hex(5)}", state="failed", mapping_hash=MAPPING_HASH)
    with context.transaction() as session:
        session.add(made)  # as failed until the index stands: whatever happens now, it will be swept
        session.flush()
        session.refresh(made)
        session.expunge(made)
    context.use(Elasticsearch).create_index(made.index, MAPPING, SETTINGS, aliases=[write_alias(made.index)])
    move(context, made, "building")
    return made


def move(context: Context, generation: Generation, state: str) -> None:
    """Give a generation another state."""
    with context.transaction() as session:
        session.execute(update(Generation).where(Generation.id == generation.id).values(state=state))
    generation.state = state


def promote(context: Context, generation: Generation) -> None:
    """Let searches see this generation in one step; the one they saw stays behind as the previous one."""
    search = context.use(Elasticsearch)
    search.put_settings(generation.index, SERVING)
    search.refresh(generation.index)
    point_alias(context, generation)
    note_live(context, generation)


def point_alias(context: Context, generation: Generation) -> None:
    """Point the alias at this generation alone, and remove a real index that squats on the alias's name."""
    search = context.use(Elasticsearch)
    before = search.alias_targets(ALIAS)
    squatter = ALIAS if not before and search.index_exists(ALIAS) else None
    others = [index for index in before if index != generation.index]
    search.swap_alias(ALIAS, add=[generation.index], remove=others, remove_index=squatter)


def note_live(context: Context, generation: Generation) -> None:
    """Note in the rows that the alias points at this generation now."""
    documents = context.use(Elasticsearch).count(generation.index)
    with context.transaction() as session:
        if generation.state == "building":
            session.execute(update(Generation).where(Generation.state == "previous").values(state="dropped"))
        session.execute(update(Generation).where(Generation.state == "live").values(state="previous"))
        session.execute(
            update(Generation)
            .where(Generation.id == generation.id)
            .values(state="live", documents=documents, promoted_at=text("now()"))
        )
    generation.state = "live"


def sweep(context: Context) -> None:
    """Remove every index of ours that is no longer written to; call it with the build lock held."""
    search = context.use(Elasticsearch)
    with context.transaction() as session:
        retired = session.scalars(select(Generation.index).where(Generation.state.not_in(WRITTEN))).all()
    leftovers = {name for index in retired for name in (index, write_alias(index))} & set(search.indices(f"{ALIAS}-*"))
    if leftovers:
        with context.transaction() as session:
            session.execute(text(f"SELECT {_FENCE.format('')}"))  # every batch that still knew them has ended
    for name in sorted(leftovers):
        search.delete_index(name)
        context.log(f"removed the index {name}")
