"""Jobs that tests run; `trial_worker` beside this file is a worker process that knows them."""

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text

from integrations import Rejected, Throttled, Unavailable
from integrations._http import HttpUpstream
from integrations.warehouse import Warehouse
from jobs import Backoff, Context, Member, Snooze, chunk_job, job

QUICK = Backoff(first=0.05, longest=0.1)


@job(queue="trial")
def effect(context: Context, *, key: str, seconds: float = 0) -> dict[str, Any]:
    """Leave one row, after a while."""
    time.sleep(seconds)
    with context.transaction() as session:
        session.execute(
            text("INSERT INTO effects (run_id, key) VALUES (:run, :key)"), {"run": context.run_id, "key": key}
        )
    return {"key": key}


@job(queue="trial", key="tenant", per_key=2, limit=3)
def shared(context: Context, *, tenant: str, seconds: float = 0) -> None:
    """Leave one row, of each tenant two and of all three at a time."""
    _leave(context, tenant, seconds)


@job(queue="trial", key="sku", ordered=True, max_attempts=2, backoff=QUICK)
def serial(context: Context, *, sku: str, number: int, failures: int = 0) -> None:
    """Leave one row, for each sku in the order of enqueue; fail the first attempts."""
    if context.attempt <= failures:
        raise RuntimeError("not yet")
    _leave(context, f"{sku} {number}", 0)


@job(queue="trial", key="tenant")
def in_turn(context: Context, *, tenant: str) -> None:
    """Leave one row; the tenants take turns."""
    _leave(context, tenant, 0)


def _leave(context: Context, key: str, seconds: float) -> None:
    with context.transaction() as session:
        values = {"run": context.run_id, "key": key}
        session.execute(text("INSERT INTO effects (run_id, key) VALUES (:run, :key)"), values)
    time.sleep(seconds)


@job(queue="trial", max_attempts=3, backoff=QUICK)
def fail(context: Context, *, times: int = 99) -> dict[str, Any]:
    """Fail the first so many attempts."""
    context.log(f"attempt {context.attempt}")
    if context.attempt <= times:
        raise RuntimeError(f"broken for the {context.attempt}. time")
    return {"attempts": context.attempt}


@job(queue="trial", max_attempts=3, backoff=QUICK)
def meet(context: Context, *, error: str, times: int = 99) -> None:
    """Meet an upstream's trouble."""
    if context.attempt > times:
        return
    match error:
        case "unavailable":
            raise Unavailable("the upstream is away", upstream="trial")
        case "throttled":
            raise Throttled("asked for patience", upstream="trial", retry_after=0.05)
        case "rejected":
            raise Rejected("said no", upstream="trial", status=422)


@job(queue="trial", backoff=QUICK, backoffs={OSError: Backoff(4_000, 4_000)})
def choosy(context: Context, *, broken_file: bool) -> None:
    """Fail the first attempt, in one of two ways."""
    if context.attempt == 1:
        raise FileNotFoundError("no such mill") if broken_file else RuntimeError("no mill")


@job(queue="trial")
def patient(context: Context, *, checks: int = 2_000) -> None:
    """Look around often, so that it can be stopped."""
    for done in range(checks):
        context.progress(done, checks, "looking around")
        context.check()
        time.sleep(0.01)


@job(queue="trial", time_limit=0.3, max_attempts=1)
def endless(context: Context) -> None:
    """Never end by itself."""
    del context
    while True:
        time.sleep(0.01)


@job(queue="trial")
def talkative(context: Context) -> None:
    """Say more than is kept."""
    for number in range(1_500):
        context.log(f"line {number}", token="never seen")
    context.log("x" * 5_000)


@job(queue="trial", max_attempts=3)
def nothing(context: Context) -> None:
    """Do nothing."""
    del context


@job(queue="trial")
def poison(context: Context) -> None:
    """End the process that runs it, as a crash of an extension would."""
    del context
    os.kill(os.getpid(), signal.SIGKILL)


class Unprintable(Exception):  # noqa: N818 - says what it is
    """An error that cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("not even this")


@job(queue="trial", max_attempts=1)
def awkward(context: Context, *, how: str) -> dict[str, Any] | None:
    """End in a way that is hard to record."""
    match how:
        case "unprintable":
            raise Unprintable
        case "exit":
            sys.exit(3)
        case "zero":
            raise RuntimeError("a zero \x00, the letters \\u0000, half a pair \ud800, and Bearer hunter2")
        case "large":
            return {"filler": "x" * 20_000}
        case "result":
            return {"half a pair": "\ud800", "zero": "\x00", "letters": "\\u0000", "huge": 2**80}
        case "words":
            context.log("half a pair \ud800 and the letters \\u0000", odd={1: object(), "pair": ("Bearer hunter2",)})
            context.progress(2**70, note="half a pair \ud800")
    return None


@job(queue="trial", needs=(Warehouse,))
def needy(context: Context) -> None:
    """Need an upstream."""
    del context


@job(queue="trial", needs=(Warehouse,), backoff=QUICK)
def call(context: Context) -> None:
    """Call an upstream."""
    context.use(Warehouse).probe()


@job(queue="trial", max_attempts=3, backoff=QUICK)
def charge(context: Context, *, url: str, reads: int = 0) -> None:
    """Ask an upstream for its prices, then charge once."""
    shop = HttpUpstream("shop", url, SecretStr("hunter2hunter2"), breaker=None)
    try:
        for number in range(reads):
            shop.get(f"/v1/prices/{number}", params={"api_key": "hunter2"})
        headers = {"Idempotency-Key": context.idempotency_key("charge")}
        shop.send("POST", f"{url}/v1/charges", headers=headers, content=b"{}")
    finally:
        shop.close()


@job(queue="trial", time_limit=0.3, max_attempts=1)
def stubborn(context: Context) -> None:
    """Swallow the first word about its time limit and go on for a moment."""
    del context
    time.sleep(0.6)


@job(queue="elsewhere")
def moved(context: Context) -> None:
    """Belong to a queue that its older runs are not in."""
    del context


@job(queue="trial", time_limit=0.3, max_attempts=2, backoff=QUICK)
def overdue(context: Context, *, how: str) -> None:
    """Block where nothing in Python can end it, beyond the time limit."""
    _block(context, how)


@job(queue="trial")
def deaf(context: Context, *, how: str) -> None:
    """Block in the same ways, within the time limit."""
    _block(context, how)


def _block(context: Context, how: str) -> None:
    match how:
        case "recv":
            ours, theirs = socket.socketpair()
            ours.recv(1)
            theirs.close()
        case "sleep":
            time.sleep(600)
        case "database":
            with context.transaction() as session:
                context.checkpoint(session, {"never": "kept"})
                session.execute(text("SELECT pg_sleep(600)"))
        case "row":
            with context.transaction() as session:
                context.checkpoint(session, {"never": "kept"})
                time.sleep(600)
        case "thread":
            closed = Lock()
            closed.acquire()
            thread = Thread(target=closed.acquire)
            thread.start()
            thread.join()


@job(queue="trial", max_attempts=3, backoff=QUICK)
def steps(context: Context, *, of: int = 6, fail_at: tuple[int, ...] = (), stop: str = "fail") -> dict[str, Any]:
    """Leave a row for each step, going on after the last one that is saved; stop once in each of the given steps."""
    first = context.resume_from.get("next", 0)
    for step in range(first, of):
        with context.transaction() as session:
            values = {"run": context.run_id, "key": str(step)}
            session.execute(text("INSERT INTO effects (run_id, key) VALUES (:run, :key)"), values)
            context.checkpoint(session, {"next": step + 1})
            if stop == "fail" and step in fail_at and step > first:
                raise RuntimeError(f"broken in step {step}")
        while stop == "wait" and step in fail_at and context.attempt == 1:
            context.check()
            time.sleep(0.01)
    return {"first": first}


@job(queue="trial")
def begin(context: Context, *, keys: list[str]) -> None:
    """Enqueue a run for each key."""
    with context.transaction() as session:
        effect.enqueue_many(session, [{"key": key} for key in keys])
        effect.after(effect.enqueue(session, key="first")).enqueue(session, key="second")


@dataclass(frozen=True)
class Piece:
    """What one run of a chunk is about, and how it goes."""

    key: str
    how: str = ""


@chunk_job(Piece, most=5, queue="trial", max_attempts=2, backoff=QUICK, time_limit=1.0)
def together(context: Context, members: Sequence[Member[Piece]]) -> None:
    """Leave one row for each run, with the number of those that came along."""
    for member in members:
        with context.transaction() as session:
            values = {"run": member.run_id, "key": str(len(members))}
            session.execute(text("INSERT INTO effects (run_id, key) VALUES (:run, :key)"), values)
        match member.args.how:
            case "fail":
                member.fail(RuntimeError(f"{member.args.key} is no good"))
            case "refuse":
                member.fail(Rejected("said no", upstream="trial", status=422))
            case "snooze" if member.attempt == 1:
                member.fail(Snooze(0.05, "not yet"))
            case "tell":
                member.succeed({"told": member.args.key})
    if any(member.args.how == "raise" for member in members):
        raise RuntimeError("all that said nothing")
    while any(member.args.how == "linger" for member in members):
        context.check()
        time.sleep(0.005)
