"""The environment, read once and only here.

Every variable is named in `.env.example`. A missing or malformed one stops the process with a line that says which one
and what it should look like; the values themselves are never repeated, because many of them are secrets. An
integration none of whose variables is set is simply not there; one that is half configured is a mistake.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

import integrations
from integrations import Integration, IntegrationSettings, WebhookSecret
from workers import delivery, redis_servers
from workers.address import Address

Model = TypeVar("Model", bound=BaseModel)

#: The option of a database's address that says it is one of PgBouncer's, as other libraries spell it too.
PGBOUNCER = re.compile(r"(?<=[?&])pgbouncer=true(?:&|$)")


class BadSettings(Exception):  # noqa: N818 - reads as what it is in a message
    """The environment cannot be used; the message names the variable and what to write."""


#: Addresses that may name several hosts, separated by commas.
SEVERAL_HOSTS = (*redis_servers.SENTINEL, *redis_servers.CLUSTER, *delivery.RABBITMQ)


def _address(*schemes: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        try:
            address = Address.parse(value.get_secret_value())
            usable = address.scheme in schemes and (len(address.hosts) == 1 or address.scheme in SEVERAL_HOSTS)
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(f"write an address like {schemes[0]}://host:port/name")
        return value

    return AfterValidator(check)


def _of_a_master(value: SecretStr) -> SecretStr:
    address = Address.parse(value.get_secret_value())
    master, *databases = address.path or ("",)
    database = databases[0] if databases else "0"
    if address.scheme in redis_servers.SENTINEL and not (master and database.isdecimal()):
        raise ValueError("name the master that the Sentinels watch, redis+sentinel://host:26379/mymaster/0")
    return value


def _of_a_broker(value: SecretStr) -> SecretStr:
    try:
        delivery.through(value.get_secret_value())
    except ValueError:
        raise ValueError("an option after the question mark is not one of RabbitMQ's clients") from None
    return value


def _listed(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _of_networks(value: str) -> str:
    try:
        for part in _listed(value):
            ip_network(part)
    except ValueError:
        raise ValueError("write addresses or networks, separated by commas, like 10.0.0.0/8,192.168.1.7") from None
    return value


Networks = Annotated[str, AfterValidator(_of_networks)]
ONE_REDIS = (*redis_servers.SINGLE, *redis_servers.SENTINEL)
Postgres = Annotated[SecretStr, _address("postgresql", "postgres")]
Redis = Annotated[SecretStr, _address(*ONE_REDIS), AfterValidator(_of_a_master)]
Broker = Annotated[
    SecretStr,
    _address(*ONE_REDIS, *redis_servers.CLUSTER, *delivery.RABBITMQ),
    AfterValidator(_of_a_master),
    AfterValidator(_of_a_broker),
]


class Database(BaseModel):
    """The least that anything needs; addresses may carry passwords and therefore never print."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    database_url: Postgres = Field(description="PostgreSQL 18 or newer, postgresql://user:password@host:5432/name")

    @property
    def pooled(self) -> bool:
        """Whether a pooler lets transactions take turns on the server's connections."""
        return PGBOUNCER.search(self.database_url.get_secret_value()) is not None

    @property
    def conninfo(self) -> str:
        """Address of the database for psycopg."""
        url = self.database_url.get_secret_value()
        return PGBOUNCER.sub("", url).rstrip("?&") if self.pooled else url

    @property
    def sqlalchemy_url(self) -> str:
        """Address of the database for SQLAlchemy with psycopg."""
        return "postgresql+psycopg://" + self.conninfo.partition("://")[2]

    @property
    def connect_args(self) -> dict[str, Any]:
        """What psycopg has to know beside the address: a prepared statement stays on one connection of the server."""
        return {"prepare_threshold": None} if self.pooled else {}


class Core(Database):
    """What every process needs."""

    redis_url: Redis = Field(description="Redis 7 or Valkey, redis://host:6379/0")
    broker_url: Broker | None = Field(
        default=None, description="Broker of the queues if it is another one, amqp://host:5672/vhost for RabbitMQ"
    )
    host: str = Field(default="0.0.0.0", description="Address the web process listens on")  # noqa: S104 - as platforms expect
    port: int = Field(default=8000, ge=0, le=65535, description="Port of the web process; 0 takes a free one")
    trusted_proxies: Networks = Field(default="", description="Own reverse proxies, whose X-Forwarded-For is believed")

    @property
    def proxies(self) -> list[str]:
        """The reverse proxies that are believed when they say for whom they ask."""
        return _listed(self.trusted_proxies)


@dataclass(frozen=True)
class Settings:
    """The validated environment."""

    core: Core
    #: Settings of the integrations that are configured, by name.
    integrations: Mapping[str, IntegrationSettings]

    @property
    def broker_url(self) -> str:
        """Address of the queues' broker."""
        return (self.core.broker_url or self.core.redis_url).get_secret_value()

    def secrets(self) -> set[str]:
        """Return every credential among them, also those that are part of an address."""
        fields = [value for model in self.integrations.values() for _, value in model]
        addresses = [value for _, value in self.core if isinstance(value, SecretStr)]
        passwords = {found for value in (*addresses, *fields) for found in _passwords(value)}
        return passwords | {secret for value in fields for secret in _secrets_of(value)}

    @property
    def separate_broker(self) -> bool:
        """Whether the queues are elsewhere than what else is in Redis."""
        return self.broker_url != self.core.redis_url.get_secret_value()


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """Read and validate the environment.

    Raises:
        BadSettings: If a variable is missing or malformed.
    """
    found = os.environ if environment is None else environment
    core = _read(Core, {field: field.upper() for field in Core.model_fields}, found)
    configured = {
        name: settings
        for name, kind in integrations.load().items()
        if (settings := _integration(kind, found)) is not None
    }
    if "elasticsearch" not in configured:
        raise BadSettings("ELASTICSEARCH_URL is missing: set it (see .env.example)")
    return Settings(core, configured)


def database(environment: Mapping[str, str] | None = None) -> Database:
    """Read the address of the database alone.

    Raises:
        BadSettings: If it is missing or malformed.
    """
    found = os.environ if environment is None else environment
    return _read(Database, {"database_url": "DATABASE_URL"}, found)


def variables() -> dict[str, str]:
    """Return every variable that `load` reads, with its description."""
    core = {field.upper(): info.description or "" for field, info in Core.model_fields.items()}
    others = {
        kind.variable(field): info.description or ""
        for kind in integrations.load().values()
        for field, info in kind.Settings.model_fields.items()
    }
    return core | others


def _secrets_of(value: Any) -> list[str]:
    """Return what a field hides."""
    if isinstance(value, tuple):
        return [secret for each in value for secret in _secrets_of(each)]
    value = value.value if isinstance(value, WebhookSecret) else value
    return [value.get_secret_value()] if isinstance(value, SecretStr) else []


def _passwords(value: Any) -> set[str]:
    """Return the password in an address, as it is written there and as it is meant."""
    address = value.get_secret_value() if isinstance(value, SecretStr) else value
    _, found, rest = address.partition("://") if isinstance(address, str) else ("", "", "")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    password = user.partition(":")[2] if found and at else ""
    return {password, unquote(password)} - {""}


def _integration(kind: type[Integration], found: Mapping[str, str]) -> IntegrationSettings | None:
    names = {field: kind.variable(field) for field in kind.Settings.model_fields}
    if not any(found.get(name) for name in names.values()):
        return None
    return _read(kind.Settings, names, found)


def _read(model: type[Model], names: Mapping[str, str], found: Mapping[str, str]) -> Model:
    values: dict[str, Any] = {field: found[name] for field, name in names.items() if found.get(name)}
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = names[str(first["loc"][0])]
        if first["type"] == "missing":
            raise BadSettings(f"{name} is missing: set it (see .env.example)") from None
        raise BadSettings(f"{name} cannot be used: {first['msg'].removeprefix('Value error, ')}") from None
