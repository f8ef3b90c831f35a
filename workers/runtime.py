"""What a process holds while it lives: the database, Redis, the broker, and the configured integrations.

Made once per process, after any fork, and closed in reverse order. Nothing here decides at import time.
"""

from functools import cached_property
from secrets import token_hex
from threading import Lock
from types import TracebackType
from typing import Self, TypeVar

import redis
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

import integrations
import jobs
from integrations import Integration
from workers import delivery, doors, logs, redis_servers
from workers.announcing import Announcer
from workers.bell import Bell
from workers.delivery import Delivery
from workers.process import STALE_AFTER
from workers.settings import Settings

I = TypeVar("I", bound=Integration)  # noqa: E741 - an integration

#: Connections for heartbeat, outcomes and claims that are kept open; a worker of many queues, whose consumers have one
#: each for their claims, opens more.
MACHINERY_CONNECTIONS = 16
#: Seconds a connection may take to open.
CONNECT_TIMEOUT = 5
#: Seconds that whoever has just committed, or is about to call an upstream, waits for Redis; the relay does what could
#: not be announced, and a process that cannot share a circuit and a budget has its own.
ANNOUNCE_TIMEOUT = 0.25
#: Seconds a transaction may lie idle before Postgres ends it, with its locks: a job may wait for an upstream meanwhile;
#: our machinery never waits, so it was frozen or cut off, and the others must not wait for it.
JOB_IDLE, MACHINERY_IDLE = 300, STALE_AFTER
#: Seconds after which Postgres ends the statement of a process of ours that has died.
NOTICE_DEATH = 1.0
#: A database host that vanishes without a word is noticed within about 25 s instead of many minutes.
NOTICE_SILENCE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}

END_TRANSACTIONS = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name")


class NotConfigured(integrations.Rejected):
    """An integration was asked for whose variables are not set."""


class Runtime:
    """The resources of one process.

    Args:
        settings: The validated environment.
        connections: Database connections that jobs, or the process itself, may hold at once.
        name: Kind of the process, shown by Postgres.
    """

    def __init__(self, settings: Settings, *, connections: int = 10, name: str = "headrace") -> None:
        self.settings = settings
        self._connections = connections
        self._name = name
        #: Of the connections of jobs, in this process alone.
        self._jobs_name = f"{name} {token_hex(4)}"
        self._integrations: dict[type[Integration], Integration] = {}
        self._lock = Lock()
        logs.hide(settings.secrets())
        jobs.load()

    @cached_property
    def engine(self) -> Engine:
        """The database, for jobs. A connection that went away is replaced when it is next taken from the pool."""
        return self._connect(self._connections, 0, self._jobs_name, JOB_IDLE)

    @cached_property
    def machinery(self) -> Engine:
        """The database, for all that is not a job: jobs that use up their connections cannot silence it."""
        return self._connect(MACHINERY_CONNECTIONS, -1, self._name, MACHINERY_IDLE)

    def end_transactions(self) -> None:
        """End what jobs hold in the database: they do not return, and the process leaves. Never raises."""
        try:
            with self.machinery.begin() as connection:
                connection.execute(END_TRANSACTIONS, {"name": self._jobs_name})
        except SQLAlchemyError:
            logs.get().warning("the transactions of blocked jobs end with the process: Postgres is away")

    def _connect(self, connections: int, more: int, name: str, idle: float) -> Engine:
        core = self.settings.core
        known = {**NOTICE_SILENCE, **core.connect_args, "connect_timeout": CONNECT_TIMEOUT, "application_name": name}
        patience = f"idle_in_transaction_session_timeout={idle * 1000:.0f}"
        if not core.pooled:
            known["options"] = f"-c {patience} -c client_connection_check_interval={NOTICE_DEATH * 1000:.0f}"
        engine = create_engine(
            core.sqlalchemy_url, pool_size=connections, max_overflow=more, pool_pre_ping=True, connect_args=known
        )
        if core.pooled:  # a session of the server is ours for one transaction only
            event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(f"SET LOCAL {patience}"))
        return engine

    @cached_property
    def sessions(self) -> sessionmaker[Session]:
        """Sessions on the database; what they enqueue is announced right after their commit."""
        made = sessionmaker(self.engine, expire_on_commit=False)
        self._announcer.listen(made)
        return made

    @cached_property
    def _announcer(self) -> Announcer:
        return Announcer(delivery.through(self.settings.broker_url, ANNOUNCE_TIMEOUT), Bell(self.hasty_redis))

    @cached_property
    def hasty_redis(self) -> redis.Redis:
        """What processes share, for whoever can do without an answer and must not wait for one."""
        return redis_servers.connect_one(self.settings.core.redis_url.get_secret_value(), ANNOUNCE_TIMEOUT)

    @cached_property
    def redis(self) -> redis.Redis:
        """What processes share besides the database; the queues may be elsewhere, see `delivery`."""
        return redis_servers.connect_one(self.settings.core.redis_url.get_secret_value())

    def delivery(self) -> Delivery:
        """Return a way to the broker for one thread, which closes it. Nothing is connected before it is used."""
        return delivery.through(self.settings.broker_url)

    def use(self, kind: type[I]) -> I:
        """Return the configured integration of this class.

        Raises:
            NotConfigured: If its variables are not set.
        """
        with self._lock:
            if kind not in self._integrations:
                settings = self.settings.integrations.get(kind.name)
                if settings is None:
                    raise NotConfigured(
                        f"{kind.name} is not configured: set {kind.first_variable()} (see .env.example)",
                        upstream=kind.name,
                        status=0,
                    )
                self._integrations[kind] = kind(settings)
                doors.share(self._integrations[kind], self.hasty_redis, self.machinery)
            made = self._integrations[kind]
        if not isinstance(made, kind):
            raise TypeError(f"asked for {kind.__name__}, got {type(made).__name__}")
        return made

    def close(self) -> None:
        """Let go of everything."""
        for made in self._integrations.values():
            made.close()
        for name in ("redis", "hasty_redis"):
            if name in self.__dict__:
                self.__dict__[name].close()
        for name in ("engine", "machinery"):
            if name in self.__dict__:
                self.__dict__[name].dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
