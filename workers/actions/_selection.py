"""Which runs: a selection that lists them, counts them and moves them with the same condition.

Every part narrows it. An argument given as text matches a stored text as well as the JSON value it spells, because a
person who types `sku=123` does not know which of the two the job keeps.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, true

import jobs
from models import Run, State


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Runs that match every given part; an empty selection is all runs."""

    ids: tuple[int, ...] = ()
    states: tuple[State, ...] = ()
    job: str | None = None
    queue: str | None = None
    #: Members of this batch.
    batch: int | None = None
    #: A part of the error's text, upper and lower case alike.
    error: str | None = None
    #: Runs that ended at or after this moment, or were created then if they have not ended.
    since: datetime | None = None
    #: Arguments as typed; each must be there.
    arguments: Mapping[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether it selects everything."""
        return self == Selection()

    def within(self, states: frozenset[State]) -> "Selection":
        """Return the selection with these states where it names none."""
        return self if self.states else replace(self, states=tuple(sorted(states)))

    def condition(self) -> ColumnElement[bool]:
        """Return what a row of `runs` must satisfy."""
        tests: list[ColumnElement[bool]] = [_argument(name, value) for name, value in self.arguments.items()]
        if self.ids:
            tests.append(Run.id.in_(self.ids))
        if self.states:
            tests.append(Run.state.in_(self.states))
        if self.job is not None:
            tests.append(Run.job.in_(_names(self.job)))
        if self.queue is not None:
            tests.append(Run.queue == self.queue)
        if self.batch is not None:
            tests.append(Run.batch_id == self.batch)
        if self.error is not None:
            tests.append(Run.error.icontains(self.error, autoescape=True))
        if self.since is not None:
            tests.append(func.coalesce(Run.finished_at, Run.created_at) >= self.since)
        return and_(true(), *tests)

    def describe(self) -> str:
        """Say it in the words of the command line."""
        parts = [str(number) for number in self.ids[:20]] + (["..."] if len(self.ids) > len(self.ids[:20]) else [])
        parts += [f"--state {state}" for state in self.states]
        named = {"job": self.job, "queue": self.queue, "batch": self.batch, "error": self.error, "since": self.since}
        parts += [f"--{name} {value}" for name, value in named.items() if value is not None]
        return " ".join(parts + [f"--arg {name}=..." for name in self.arguments])


def _names(job: str) -> set[str]:
    """Return all that a job is and was called."""
    known = jobs.names().get(job)
    return {job} if known is None else {known.name, *known.formerly}


def as_value(typed: str) -> Any:
    """Return what a person typed as the JSON value it spells, or as the text it is."""
    try:
        return json.loads(typed)
    except ValueError:
        return typed


def _argument(name: str, typed: str) -> ColumnElement[bool]:
    return or_(Run.args.contains({name: as_value(typed)}), Run.args.contains({name: typed}))
