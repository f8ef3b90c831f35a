"""The verdict: is everything flowing, and if not, what should a person do about it.

`judge` is a pure function from one look at everything to a list of checks. Red means that work is not done or news is
refused right now; amber means that somebody should look today. Each sentence names the thing, says how bad it is
against which limit, and ends with what to do. A part that could not be asked is red by itself, and the checks that
need it are left out instead of guessed.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby

from jobs._canary import PREFIX
from models import FILE
from web.pulse import NotMigrated, Sight, Snapshot
from web.question import Silence
from web.recent import RetryingView
from web.words import ago, counted, first_line, whole
from workers import canaries
from workers.canaries import CanaryView, Stopped
from workers.census import QueueView, StreamView
from workers.circuits import CircuitView
from workers.moments import askew
from workers.timetable import ScheduleView

#: Seconds that the oldest due run may wait before somebody should look, and before it is an outage.
LATE_AMBER = 60
LATE_RED = 300
#: Seconds since the last complete walk of a stream.
STREAM_AMBER = 2 * 3600
#: Seconds that the index may lag behind.
INDEX_AMBER = 300
#: Seconds that the circuit of an upstream may be open before that is an outage.
CIRCUIT_RED = 300
#: Seconds after which a schedule that did not fire is overdue.
OVERDUE = 60
#: Seconds by which a host's clock may differ from the database's.
SKEWED = 2
#: Looks in a row at which a part may answer too late before that is an outage: a busy part is not a lost one.
LATE_ANSWERS = 3


class Status(StrEnum):
    """How a check, or everything, is."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclass(frozen=True, slots=True)
class Check:
    """One judgement."""

    name: str
    status: Status
    #: One sentence; unless green it says what to do.
    detail: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """All judgements, and the worst of them."""

    status: Status
    checks: list[Check]

    @property
    def troubles(self) -> list[Check]:
        """What is not green, the red first."""
        found = [check for check in self.checks if check.status is not Status.GREEN]
        return sorted(found, key=lambda check: check.status is Status.AMBER)


def judge(sight: Sight) -> Verdict:
    """Judge everything."""
    checks = [_postgres(sight), *_parts(sight)]
    if sight.snapshot is not None:
        checks += _judge_snapshot(sight.snapshot, _away(sight))
    found = {check.status for check in checks}
    worst = next(status for status in (Status.RED, Status.AMBER, Status.GREEN) if status in found)
    return Verdict(worst, checks)


def _postgres(sight: Sight) -> Check:
    match sight.postgres:
        case Silence(reason):
            detail = (
                f"Postgres does not answer ({reason}): webhooks are refused with 503 and no work is done; "
                "start it or correct DATABASE_URL."
            )
            return Check("postgres", Status.RED, detail)
        case NotMigrated(revision, newest):
            found = f"revision {revision}" if revision else "no tables of ours"
            detail = f"The database has {found} and this code needs {newest}: run `headrace migrate`."
            return Check("postgres", Status.RED, detail)
        case _:
            return Check("postgres", Status.GREEN, "Postgres answers and its tables are up to date.")


_CONSEQUENCES = {
    "redis": "runs wait in Postgres and none is delivered; start it or correct REDIS_URL",
    "broker": "runs wait in Postgres and none is delivered; start it or correct BROKER_URL",
    "elasticsearch": "searches fail and index work waits in Postgres; start it or correct ELASTICSEARCH_URL",
}


#: What it means that Redis is away when the queues are elsewhere.
_ONLY_SHARED = "what processes share through it is out of reach; start it or correct REDIS_URL"


def _parts(sight: Sight) -> Iterator[Check]:
    queues_in = "broker" if "broker" in sight.parts else "redis"
    for name, silence in sight.parts.items():
        title = sight.broker if name == queues_in else name.capitalize()
        if silence is None:
            yield Check(name, Status.GREEN, f"{title} answers.")
        else:
            consequence = _CONSEQUENCES.get(name, "work that needs it waits; start it")
            if name == "redis" != queues_in:
                consequence = _ONLY_SHARED
            detail = f"{title} does not answer ({silence.reason}): {consequence}."
            busy = 0 < silence.late < LATE_ANSWERS
            yield Check(name, Status.AMBER if busy else Status.RED, detail)


def _away(sight: Sight) -> set[str]:
    """Return the stages of a canary's way whose server does not answer, which is said already."""
    queues_in = "broker" if "broker" in sight.parts else "redis"
    behind = {queues_in: {"relay", "broker"}, "elasticsearch": {"search"}}
    silent = (name for name, silence in sight.parts.items() if silence is not None)
    return {stage for name in silent for stage in behind.get(name, ())}


def _judge_snapshot(seen: Snapshot, away: set[str]) -> list[Check]:
    still = canaries.stopped(seen.canaries, seen.queues, seen.processes, seen.taken_at)
    # Why their runs wait is said where that is known: more workers would not help them.
    known = {name for stop in still if stop.stage in {"relay", "broker"} for name in stop.queues}
    known |= {queue.name for queue in seen.queues if "broker" in away or not queue.workers}
    troubles = [
        *_processes(seen),
        *(_canary(stop) for stop in still if stop.stage not in away),
        *(_unwatched(view, seen.taken_at) for view in seen.canaries if view.paused_at is not None),
        *_clocks(seen),
        *(check for queue in seen.queues for check in _queue(queue, seen.taken_at, known)),
        *(check for schedule in seen.schedules for check in _schedule(schedule, seen.taken_at)),
        *(_circuit(circuit, seen.taken_at) for circuit in seen.circuits),
        *(check for stream in seen.streams for check in _stream(stream)),
        *_dead(seen),
        *(_retrying(job) for job in seen.retrying),
        *_index(seen),
    ]
    named = {check.name.partition(":")[0] for check in troubles}
    return troubles + [Check(name, Status.GREEN, detail) for name, detail in _CALM.items() if name not in named]


_CALM = {
    "workers": "A live worker serves every queue.",
    "relay": "A relay is alive.",
    "scheduler": "A scheduler is alive.",
    "canaries": f"No canary is awaited for longer than {whole(canaries.PATIENCE)}.",
    "clocks": f"The clocks of all hosts agree with the database's within {SKEWED} s.",
    "late": f"No due run waits longer than {LATE_AMBER} s.",
    "paused": "No queue is paused.",
    "schedules": "Every schedule fires on time.",
    "rules": "No schedule has two rules to choose from.",
    "circuits": "No upstream is left alone.",
    "streams": f"Every stream was read within the last {STREAM_AMBER // 3600} h.",
    "deletions": "No deletion waits for approval.",
    "dead": "No run died in the last 24 h.",
    "retrying": "No run fails again and again.",
    "index": "The search index keeps up.",
}


def _processes(seen: Snapshot) -> Iterator[Check]:
    alive = {process.kind for process in seen.processes if process.alive}
    if "relay" not in alive:
        detail = "No relay is alive: due runs and retries stay in Postgres; start `python -m workers.relay`."
        yield Check("relay", Status.RED, detail)
    if "scheduler" not in alive:
        detail = "No scheduler is alive: nothing fires by itself; start `python -m scheduler`."
        yield Check("scheduler", Status.RED, detail)
    if "worker" in alive:
        yield from (_unserved(queue) for queue in seen.queues if queue.workers == 0)
    elif seen.queues:
        work = sum(queue.waiting + queue.queued + queue.running for queue in seen.queues)
        detail = f"No worker is alive, {counted(work, 'run')} cannot go on: start `python -m workers.worker`."
        yield Check("workers", Status.RED, detail)


def _unserved(queue: QueueView) -> Check:
    work = queue.waiting + queue.queued + queue.running
    waits = f"{counted(work, 'run')} there cannot go on" if work else "nothing waits there yet"
    detail = (
        f"No live worker serves the queue {queue.name}, {waits}: "
        f"start `python -m workers.worker --queues {queue.name}`."
    )
    return Check(f"workers:{queue.name}", Status.RED if work else Status.AMBER, detail)


def _canary(stop: Stopped) -> Check:
    return Check(f"canaries:{stop.stage}", Status.RED, stop.sentence, stop.since)


def _unwatched(view: CanaryView, now: datetime) -> Check:
    detail = (
        f"{view.paused_by or 'Somebody'} paused the canary of the queue {view.queue} {ago(view.paused_at, now)}: if the"
        f" queue stands still nobody is told; `headrace {view.paused_as} resume {PREFIX}{view.queue}` watches it again."
    )
    return Check(f"paused:{PREFIX}{view.queue}", Status.AMBER, detail, view.paused_at)


def _clocks(seen: Snapshot) -> Iterator[Check]:
    skews = sorted((process.host, process.clock_skew or 0.0) for process in seen.processes if process.alive)
    for host, found in groupby(skews, key=lambda one: one[0]):
        worst = max((skew for _, skew in found), key=abs)
        if abs(worst) > SKEWED:
            detail = (
                f"The clock of the host {host} is {askew(worst)} compared with the database's: runs and schedules"
                " follow the database's, but signatures of webhooks and times typed there are judged by it; look at its"
                " NTP service (`timedatectl`)."
            )
            yield Check(f"clocks:{host}", Status.AMBER, detail)


def _queue(queue: QueueView, now: datetime, known: Container[str]) -> Iterator[Check]:
    if queue.paused_at is not None:
        detail = (
            f"{queue.paused_by or 'Somebody'} paused the queue {queue.name} {ago(queue.paused_at, now)}"
            f"{f' ({queue.reason})' if queue.reason else ''}, {counted(queue.due + queue.queued, 'due run')} held: "
            f"`headrace queues resume {queue.name}` lets them go on."
        )
        yield Check(f"paused:{queue.name}", Status.AMBER, detail, queue.paused_at)
    elif queue.name not in known and (queue.oldest_due_seconds or 0.0) > LATE_AMBER:
        late = queue.oldest_due_seconds or 0.0
        red = late > LATE_RED
        detail = (
            f"The queue {queue.name} is {whole(late)} late, limit {LATE_AMBER} s, with "
            f"{counted(queue.due + queue.queued, 'due run')}: add workers, or see `headrace runs list --queue "
            f"{queue.name}`."
        )
        yield Check(f"late:{queue.name}", Status.RED if red else Status.AMBER, detail, queue.oldest_due_at)


def _schedule(schedule: ScheduleView, now: datetime) -> Iterator[Check]:
    if schedule.retired_at is not None or schedule.paused_at is not None or schedule.next_fire_at is None:
        return
    late = (now - schedule.next_fire_at).total_seconds()
    if late > OVERDUE and not schedule.name.startswith(PREFIX):  # of a canary this is said with its queue
        detail = f"The schedule {schedule.name} should have fired {whole(late)} ago: look at the scheduler's log."
        yield Check(f"schedules:{schedule.name}", Status.AMBER, detail, schedule.next_fire_at)
    if schedule.in_conflict:
        detail = (
            f"{schedule.changed_by} gave the schedule {schedule.name} the rule {schedule.rule}, and since then the "
            f"code declares {schedule.declared_rule}: choose with `headrace schedules change {schedule.name}`."
        )
        yield Check(f"rules:{schedule.name}", Status.AMBER, detail)


def _circuit(circuit: CircuitView, now: datetime) -> Check:
    seconds = (now - circuit.opened_at).total_seconds()
    late = f", limit {whole(CIRCUIT_RED)}" if seconds > CIRCUIT_RED else ""
    why = first_line(circuit.error or "no error").rstrip(".")
    detail = (
        f"The circuit of {circuit.upstream} is open for {whole(seconds)}{late} ({why}): what needs it waits and goes on"
        f" by itself; ask the people of {circuit.upstream}, see `headrace upstreams list`."
    )
    return Check(f"circuits:{circuit.upstream}", Status.RED if late else Status.AMBER, detail, circuit.opened_at)


def _stream(stream: StreamView) -> Iterator[Check]:
    name = f"{stream.upstream}/{stream.name}"
    if stream.upstream == FILE:
        pass  # it is what people gave us and has no end
    elif stream.freshness_seconds is None and not stream.walking:
        detail = f"The stream {name} was never read to its end: see `headrace runs list --job {stream.upstream}`."
        yield Check(f"streams:{name}", Status.AMBER, detail)
    elif stream.freshness_seconds is not None and stream.freshness_seconds > STREAM_AMBER:
        detail = (
            f"The stream {name} was last read {whole(stream.freshness_seconds)} ago, limit {STREAM_AMBER // 3600} h: "
            f"look at its newest run, and whether {stream.upstream} answers."
        )
        yield Check(f"streams:{name}", Status.AMBER, detail, stream.walked_at)
    if stream.held_deletions:
        detail = (
            f"{counted(stream.held_deletions, 'item')} of {name} vanished at once and the deletion is held: "
            f"ask the people of {stream.upstream}, then `headrace streams approve {name}` if it is right."
        )
        yield Check(f"deletions:{name}", Status.AMBER, detail)


def _dead(seen: Snapshot) -> Iterator[Check]:
    if seen.dead.count and seen.dead.finished_at is not None:
        age = whole((seen.taken_at - seen.dead.finished_at).total_seconds())
        detail = (
            f"{counted(seen.dead.count, 'run')} died in the last 24 h, the newest {age} ago ({seen.dead.job}): "
            "read the error with `headrace runs list --state dead`, then retry or discard."
        )
        yield Check("dead", Status.AMBER, detail, seen.dead.finished_at)


def _retrying(job: RetryingView) -> Check:
    detail = (
        f"{counted(job.count, 'run')} of {job.job} failed twice or more and will try again ({first_line(job.error)}): "
        f"see `headrace runs list --job {job.job} --state waiting`."
    )
    return Check(f"retrying:{job.job}", Status.AMBER, detail, job.since)


def _index(seen: Snapshot) -> Iterator[Check]:
    index = seen.index
    if index.live is None and seen.totals.products:
        yield Check("index:live", Status.AMBER, "No search index is live yet: run `headrace search rebuild`.")
    if index.drift:
        detail = (
            f"The last check found {counted(index.drift, 'product')} that differ between Postgres and the index: "
            "run `headrace search repair`."
        )
        yield Check("index:drift", Status.AMBER, detail, index.verified_at)
    if index.oldest_seconds is not None and index.oldest_seconds > INDEX_AMBER:
        detail = (
            f"The index is {whole(index.oldest_seconds)} behind, limit {whole(INDEX_AMBER)}, with "
            f"{counted(index.pending, 'change')} to learn: see `headrace search status`."
        )
        since = seen.taken_at - timedelta(seconds=index.oldest_seconds)
        yield Check("index:lag", Status.AMBER, detail, since)
    if index.rejects:
        detail = f"The index refused {counted(index.rejects, 'document')}: see `headrace search status` for the reason."
        yield Check("index:rejects", Status.AMBER, detail)
