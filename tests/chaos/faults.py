"""The faults: which, when and against whom, drawn from a seed.

Time goes in rounds. A round begins stormy: Postgres too is restarted and crashed. Then it is spared for longer than a
heartbeat may be silent, because a relay takes nobody for dead before it could reach the ledger for that long: in this
calmer part killed workers are buried, and one worker is frozen until the ledger has given away what it held. The seed
draws kinds and moments; what they hit also depends on how fast the machine is.
"""

import signal
import time
from collections import Counter
from collections.abc import Callable
from random import Random

import redis
from sqlalchemy import Engine, TextClause, text

from sandbox.services import Services
from tests.chaos.crew import Crew

#: Seconds of a round, and of its stormy beginning.
ROUND, STORM = 26.0, 8.0
#: Seconds between two faults, and between two looks at who ended.
GAP = (0.2, 1.2)
LOOK = 0.1
#: Connections cut at once, at most.
CUT = 6

LIVES = text("SELECT count(*) FROM processes WHERE pid = :pid AND stopped_at IS NULL")
BURIED = text("SELECT stopped_at IS NOT NULL FROM processes WHERE pid = :pid ORDER BY id DESC LIMIT 1")
CUT_SOME = text("""
    SELECT count(pg_terminate_backend(pid)) FROM (
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
        ORDER BY md5(pid || :salt) LIMIT :most
    ) AS chosen
""")


class Faults:
    """Strikes until its time is over, and keeps everything else running.

    Args:
        services: The servers.
        crew: Our processes.
        engine: The database, without connections that are kept.
        seed: Seed of all draws.
    """

    def __init__(self, services: Services, crew: Crew, engine: Engine, seed: int) -> None:
        self._services = services
        self._crew = crew
        self._engine = engine
        self._random = Random(seed)
        self._round = -1
        self.struck: Counter[str] = Counter()
        self.restarts: Counter[str] = Counter()

    @property
    def _calm(self) -> dict[str, tuple[int, Callable[[], object]]]:
        spared = 1 + self._round % 2  # of two relays one lives long enough to bury the dead
        return {
            "worker killed": (4, lambda: self._kill("worker")),
            "relay killed": (3, lambda: self._kill(f"relay-{3 - spared}")),
            "scheduler killed": (2, lambda: self._kill("scheduler")),
            "connections cut": (3, self._cut),
            "Valkey flushed": (2, self._flush),
            "Valkey killed": (2, self._crash_valkey),
        }

    @property
    def _stormy(self) -> dict[str, tuple[int, Callable[[], object]]]:
        return self._calm | {
            "Postgres restarted (fast)": (3, self._services.postgres.restart),
            "Postgres restarted (immediate)": (3, self._restart_at_once),
            "Postgres killed": (3, self._crash_postgres),
        }

    def strike_for(self, seconds: float) -> None:
        """Strike again and again."""
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            self._begin_round(int(now // ROUND), calm=now % ROUND >= STORM)
            self._strike(self._stormy if now % ROUND < STORM else self._calm)
            self.tend_for(self._random.uniform(*GAP))

    def tend_for(self, seconds: float) -> None:
        """Start again what ended and thaw who was buried, for a while."""
        until = time.monotonic() + seconds
        while True:
            self.restarts.update(name.partition("-")[0] for name in self._crew.supervise())
            for name in sorted(self._crew.frozen):
                if self._asked(BURIED, name):
                    self._crew.thaw(name)
            if time.monotonic() >= until:
                return
            time.sleep(LOOK)

    def _begin_round(self, number: int, *, calm: bool) -> None:
        if not calm or number == self._round:
            return
        self._round = number
        self._freeze("worker")
        if number % 2:
            self._freeze(f"relay-{2 - number % 2}" if number % 4 == 1 else "scheduler-1")

    def _strike(self, kinds: dict[str, tuple[int, Callable[[], object]]]) -> None:
        (kind,) = self._random.choices(list(kinds), weights=[weight for weight, _ in kinds.values()])
        if kinds[kind][1]() is not False:
            self.struck[kind] += 1

    def _victim(self, kind: str) -> str | None:
        draw = self._random.random()
        victims = self._crew.victims(kind)
        return victims[int(draw * len(victims))] if victims else None

    def _kill(self, kind: str) -> bool:
        victim = self._victim(kind)
        if victim is not None:
            self._crew.kill(victim)
        return victim is not None

    def _freeze(self, kind: str) -> None:
        victim = self._victim(kind)
        if victim is None or any(name.startswith(kind) for name in self._crew.frozen):
            return
        while not self._asked(LIVES, victim):  # one that was just started is not in the ledger yet
            self.tend_for(LOOK)
        self._crew.freeze(victim)
        self.struck[f"{kind.partition('-')[0]} frozen"] += 1

    def _asked(self, statement: TextClause, name: str) -> bool:
        with self._engine.connect() as connection:
            return bool(connection.execute(statement, {"pid": self._crew.pid(name)}).scalar())

    def _cut(self) -> None:
        values = {"salt": str(self._random.random()), "most": self._random.randint(1, CUT)}
        with self._engine.connect() as connection:
            connection.execute(CUT_SOME, values)

    def _flush(self) -> None:
        client = redis.Redis.from_url(self._services.valkey.url)
        client.flushall()
        client.close()

    def _crash_valkey(self) -> None:
        self._services.valkey.kill()
        self._services.valkey.start()

    def _restart_at_once(self) -> None:
        child = self._services.postgres._child
        assert child is not None
        child.stop(signal.SIGQUIT)
        self._services.postgres.start()

    def _crash_postgres(self) -> None:
        self._services.postgres.kill()
        self._services.postgres.start()
