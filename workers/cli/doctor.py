"""The doctor: asks every part whether it is well, and says in one sentence what to do about each that is not.

Parts are asked one after the other and none hides the next: with Postgres away, Redis is still asked.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import typer
from redis.exceptions import RedisError
from rich.text import Text
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import SQLAlchemyError

import integrations
import jobs
from integrations import Channel, IntegrationError
from models import User, migrations
from workers import canaries, census, settings
from workers.cli.failures import trouble
from workers.cli.options import AsJson
from workers.cli.tables import console, print_json, printable
from workers.delivery import BrokerAway
from workers.moments import span
from workers.runtime import Runtime
from workers.settings import BadSettings

#: The oldest server_version_num that the statements of this code run on.
OLDEST_POSTGRES = 180_000
_SIGNS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("-", "dim")}


@dataclass(frozen=True)
class Finding:
    """One part: whether it is well (None if it is not in use), and a sentence."""

    part: str
    ok: bool | None
    sentence: str


def doctor(*, as_json: AsJson = False) -> None:
    """Check every part and say what to do about what is wrong; exit 1 if anything is."""
    findings: list[Finding] = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            _tell(finding)
    if as_json:
        print_json(findings)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


def examine() -> Iterator[Finding]:
    """Yield a finding for every part, each as soon as it is known."""
    try:
        found = settings.load()
    except BadSettings as error:
        yield Finding("environment", ok=False, sentence=f"{error}")
        return
    yield Finding("environment", ok=True, sentence="every variable can be used")
    with Runtime(found, connections=2, name="headrace doctor") as held:
        yield from _postgres(held)
        yield _redis(held)
        if found.separate_broker:
            yield _broker(held)
        for name, kind in integrations.load().items():
            yield _upstream(held, name, kind)
        yield from _processes(held)
        yield from _canaries(held)
        yield from _users(held)


def _postgres(held: Runtime) -> Iterator[Finding]:
    try:
        with held.engine.connect() as connection:
            yield from _database(connection)
    except SQLAlchemyError as error:
        yield Finding("Postgres", ok=False, sentence=trouble(error))


def _database(connection: Connection) -> Iterator[Finding]:
    number, name = connection.execute(
        text("SELECT current_setting('server_version_num')::int, current_setting('server_version')")
    ).one()
    new_enough = number >= OLDEST_POSTGRES
    advice = "" if new_enough else ": Headrace needs version 18 or newer"
    yield Finding("Postgres", ok=new_enough, sentence=f"version {name} answers{advice}")
    has, needs = migrations.current(connection), migrations.newest()
    if has == needs:
        yield Finding("tables", ok=True, sentence=f"at revision {has}, the newest")
    else:
        said = f"at revision {has}, and this code needs {needs}" if has else "there are none"
        yield Finding("tables", ok=False, sentence=f"{said}: run `headrace migrate`")


def _redis(held: Runtime) -> Finding:
    try:
        held.redis.ping()
    except RedisError as error:
        return Finding("Redis", ok=False, sentence=trouble(error))
    queues = "" if held.settings.separate_broker else f", and the queues are in it ({held.delivery().name})"
    return Finding("Redis", ok=True, sentence=f"answers{queues}")


def _broker(held: Runtime) -> Finding:
    broker = held.delivery()
    try:
        broker.probe()
    except BrokerAway as error:
        return Finding("broker", ok=False, sentence=trouble(error))
    finally:
        broker.close()
    return Finding("broker", ok=True, sentence=f"{broker.name} answers, and the queues are in it")


def _upstream(held: Runtime, name: str, kind: type[integrations.Integration]) -> Finding:
    if name not in held.settings.integrations:
        return Finding(name, ok=None, sentence=f"not in use; {kind.first_variable()} would configure it")
    try:
        held.use(kind).probe()
    except IntegrationError as error:
        return Finding(name, ok=False, sentence=trouble(error))
    more = "; `headrace alerts test` tries whether messages arrive" if issubclass(kind, Channel) else " and accepts us"
    return Finding(name, ok=True, sentence=f"answers{more}")


def _processes(held: Runtime) -> Iterator[Finding]:
    try:
        with held.engine.connect() as connection:
            alive = [process for process in census.processes(connection) if process.alive]
    except SQLAlchemyError:
        yield Finding("processes", ok=False, sentence="nobody knows who is alive while Postgres cannot be read")
        return
    for kind, module in (("relay", "workers.relay"), ("scheduler", "scheduler")):
        living = sum(process.kind == kind for process in alive)
        sentence = f"{living} alive" if living else f"none is alive: start one with `python -m {module}`"
        yield Finding(kind, ok=bool(living), sentence=sentence)
    for queue in sorted({job.queue for job in jobs.all_jobs().values()}):
        serving = sum(process.kind == "worker" and queue in process.queues for process in alive)
        sentence = f"{serving} alive" if serving else f"none serves queue {queue}: start a worker (see Procfile)"
        yield Finding(f"workers of {queue}", ok=bool(serving), sentence=sentence)


def _canaries(held: Runtime) -> Iterator[Finding]:
    try:
        with held.engine.connect() as connection:
            views, queues = canaries.look(connection), census.queues(connection, jobs.canaries())
            alive = census.processes(connection)
            now = connection.execute(text("SELECT now()")).scalar_one()
    except SQLAlchemyError:
        return  # that is said already
    for stop in canaries.stopped(views, queues, alive, now):
        yield Finding(f"canaries at {stop.stage}", ok=False, sentence=stop.sentence)
    back = [view.seconds for view in views if view.seconds is not None]
    sentence = f"of {len(back)} of {len(views)} queues one came back" if back else "none has come back yet"
    slowest = f", the last one after {span(max(back))} at most" if back else ""
    yield Finding("canaries", ok=True if back else None, sentence=sentence + slowest)


def _users(held: Runtime) -> Iterator[Finding]:
    admitted = select(func.count()).where(User.disabled_at.is_(None))
    try:
        with held.engine.connect() as connection:
            count = connection.execute(admitted).scalar_one()
    except SQLAlchemyError:
        return  # that is said already
    nobody = "nobody can sign in to the pages yet: `headrace users add NAME --role admin`"
    yield Finding("users", ok=True if count else None, sentence=f"{count} may sign in" if count else nobody)


def _tell(finding: Finding) -> None:
    sign, colour = _SIGNS[finding.ok]
    line = Text(f"{sign} ", style=colour).append(f"{finding.part:<26}", style="bold")
    console().print(line.append(printable(finding.sentence), style="default"))
