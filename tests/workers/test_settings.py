"""The environment: each mistake is one clear line that never repeats what was written."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from workers import delivery, settings
from workers.address import Address
from workers.settings import BadSettings

EXAMPLE = ROOT / ".env.example"
GOOD = {
    "DATABASE_URL": "postgresql://headrace:hunter2@db:5432/headrace",
    "REDIS_URL": "rediss://:hunter2@cache:6379/1",
    "ELASTICSEARCH_URL": "http://elastic:hunter2@search:9200",
}
WAREHOUSE = {"WAREHOUSE_URL": "https://wms.example.com", "WAREHOUSE_TOKEN": "hunter2"}


def refusal(environment: dict[str, str]) -> str:
    """Return the one line with which an environment is refused."""
    with pytest.raises(BadSettings) as caught:
        settings.load(environment)
    message = str(caught.value)
    assert "\n" not in message
    assert "hunter" not in message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


def active() -> dict[str, str]:
    """Return the variables that `.env.example` sets."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_variable_is_named(name: str, empty: bool) -> None:
    environment = {**GOOD, name: ""} if empty else {k: v for k, v in GOOD.items() if k != name}
    assert refusal(environment) == f"{name} is missing: set it (see .env.example)"


MALFORMED = [
    ("DATABASE_URL", "mysql://root:hunter2@db/x"),
    ("DATABASE_URL", "hunter2"),
    ("DATABASE_URL", "postgresql://"),
    ("DATABASE_URL", "postgresql://u:hunter2@db:port/x"),
    ("DATABASE_URL", "postgresql://u:hunter2@[::1/x"),
    ("DATABASE_URL", "postgresql://u:hunter2@db:0/x"),
    ("REDIS_URL", "http://:hunter2@cache"),
    ("REDIS_URL", "redis://:hunter2@one:6379,two:6379/0"),
    ("REDIS_URL", "redis+sentinel://:hunter2@one:26379,two:26379"),
    ("REDIS_URL", "redis+sentinel://:hunter2@one:26379,two:26379/shop/hunter"),
    ("REDIS_URL", "redis+cluster://:hunter2@one:6379"),
    ("REDIS_URL", "amqp://shop:hunter2@rabbit/"),
    ("BROKER_URL", "hunter2"),
    ("BROKER_URL", "redis+cluster://:hunter2@one:6379,:6379"),
    ("BROKER_URL", "amqp://shop:hunter2@rabbit:0/"),
    ("BROKER_URL", "amqp://shop:hunter2@rabbit:5672,/"),
    ("BROKER_URL", "amqp://shop:hunter2@rabbit/?heartbeat=hunter2"),
    ("PORT", "hunter2"),
    ("PORT", "65536"),
    ("PORT", "-1"),
    ("ELASTICSEARCH_URL", "ftp://elastic:hunter2@search"),
    ("WAREHOUSE_URL", "http://wms.example.com/?hunter2"),
    ("WAREHOUSE_TOKEN", "hunter2 hunter2"),
    ("WAREHOUSE_WEBHOOK_SECRETS", "whsec_hunter2!"),
    ("STRIPE_API_KEY", "hunter\n"),
    ("STRIPE_API_BASE", "hunter2"),
    ("ALERT_WEBHOOK_URL", "http://hooks.example.com/hunter2"),
    ("ALERT_WEBHOOK_SECRET", "whsec_hunter2!"),
    ("ALERT_SLACK_URL", "hunter2"),
    ("ALERT_EMAIL_TO", "hunter2"),
    ("ALERT_EMAIL_FROM", "hunter2"),
    ("SMTP_URL", "smtp://kim:hunter2@mail.example.com"),
]


@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_a_malformed_variable_is_named_and_its_value_is_not_repeated(name: str, value: str) -> None:
    others = {name: value for name, value in active().items() if name.startswith(("ALERT_", "SMTP_"))}
    assert refusal({**others, **GOOD, **WAREHOUSE, "STRIPE_API_KEY": "hunter2", name: value}).startswith(
        f"{name} cannot be used: "
    )


@given(st.text(min_size=1))
def test_whatever_stands_in_an_address_it_is_read_or_refused_in_one_line(value: str) -> None:
    try:
        settings.load({**GOOD, "DATABASE_URL": f"postgresql://hunter{value}"})
    except BadSettings:
        refusal({**GOOD, "DATABASE_URL": f"postgresql://hunter{value}"})


def test_nothing_that_is_printed_carries_a_secret() -> None:
    found = settings.load({**GOOD, **WAREHOUSE, "STRIPE_API_KEY": "hunter2", "BROKER_URL": "redis://:hunter2@b/0"})
    assert "hunter2" not in f"{found} {found!r} {found.core!r} {found.integrations!r}"
    assert "hunter2" not in str(found.core.model_dump()) + found.core.model_dump_json()


def test_every_credential_is_named_so_that_it_can_be_kept_out_of_logs() -> None:
    given = {
        "DATABASE_URL": "postgresql://headrace:first%2Fone@db:5432/headrace",
        "REDIS_URL": "rediss://:second@cache:6379/1",
        "ELASTICSEARCH_URL": "http://elastic:third@search:9200",
        "WAREHOUSE_URL": "https://wms.example.com",
        "WAREHOUSE_TOKEN": "fourth",
        "WAREHOUSE_WEBHOOK_SECRETS": "whsec_bmV3ZXI=,whsec_b2xkZXI=",
        "ALERT_SLACK_URL": "https://chat.example/T0/fifth",
    }
    assert settings.load(given).secrets() == {
        "first%2Fone", "first/one", "second", "third", "fourth", "whsec_bmV3ZXI=", "whsec_b2xkZXI=",
        "https://chat.example/T0/fifth",
    }  # fmt: skip


def test_an_integration_that_is_not_configured_is_not_there_and_half_of_one_is_a_mistake() -> None:
    assert set(settings.load(GOOD).integrations) == {"elasticsearch"}
    assert set(settings.load(GOOD | WAREHOUSE).integrations) == {"elasticsearch", "warehouse"}
    for name, value in WAREHOUSE.items():
        missing = (set(WAREHOUSE) - {name}).pop()
        assert refusal(GOOD | {name: value}) == f"{missing} is missing: set it (see .env.example)"
    assert refusal(GOOD | {"WAREHOUSE_WEBHOOK_SECRETS": "whsec_bmV3ZXI="}).startswith("WAREHOUSE_URL is missing")


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["ALERT_WEBHOOK_URL"], "ALERT_WEBHOOK_SECRET"),
        (["ALERT_WEBHOOK_SECRET"], "ALERT_WEBHOOK_URL"),
        (["ALERT_EMAIL_TO", "ALERT_EMAIL_FROM"], "SMTP_URL"),
        (["ALERT_EMAIL_TO", "SMTP_URL"], "ALERT_EMAIL_FROM"),
        (["SMTP_URL"], "ALERT_EMAIL_TO"),
    ],
)
def test_half_a_channel_for_alerts_is_a_mistake(names: list[str], missing: str) -> None:
    given = {name: active()[name] for name in names}
    assert refusal(GOOD | given) == f"{missing} is missing: set it (see .env.example)"


def test_the_queues_have_a_broker_of_their_own_only_when_they_are_given_one() -> None:
    without = settings.load(GOOD)
    assert without.broker_url == GOOD["REDIS_URL"]
    assert not without.separate_broker
    given = settings.load(GOOD | {"BROKER_URL": "redis://queues/3"})
    assert given.broker_url == "redis://queues/3"
    assert given.separate_broker


BROKERS = [
    ("redis://queues/3", "Redis"),
    ("rediss+sentinel://:hunter2@one,two:26380/shop", "Redis Sentinel"),
    ("redis+sentinel://one:26379/shop/2?sentinel_password=hunter2", "Redis Sentinel"),
    ("redis+cluster://kim:hunter2@one:6379,two:6379", "Redis Cluster"),
    ("amqp://shop:hunter2@rabbit/", "RabbitMQ"),
    ("amqps://shop:hunter2@one:5671,two:5671/orders?heartbeat=30", "RabbitMQ"),
    ("amqp://[::1]:5672/%2F", "RabbitMQ"),
]


@pytest.mark.parametrize(("url", "name"), BROKERS)
def test_the_scheme_of_its_address_says_which_broker_carries_the_runs(url: str, name: str) -> None:
    assert delivery.through(settings.load(GOOD | {"BROKER_URL": url}).broker_url).name == name


def test_an_address_of_several_hosts_is_taken_apart() -> None:
    found = Address.parse("redis+sentinel://kim:h%40nter2@one,[::1]:26380/shop/2?sentinel_password=x")
    assert (found.user, found.password, found.path) == ("kim", "h@nter2", ("shop", "2"))
    assert found.hosts_or(26379) == [("one", 26379), ("::1", 26380)]
    assert found.options == {"sentinel_password": "x"}
    assert "h@nter2" not in repr(found)


def test_the_address_of_the_database_names_the_driver() -> None:
    for scheme in ("postgresql", "postgres"):
        found = settings.load(GOOD | {"DATABASE_URL": f"{scheme}://headrace:hunter2@db:5432/headrace"})
        assert not found.core.pooled
        assert found.core.sqlalchemy_url == "postgresql+psycopg://headrace:hunter2@db:5432/headrace"


@pytest.mark.parametrize(
    "query", ["?pgbouncer=true", "?sslmode=require&pgbouncer=true", "?pgbouncer=true&sslmode=require"]
)
def test_the_address_of_a_pooler_says_so_and_psycopg_does_not_hear_of_it(query: str) -> None:
    address = "postgresql://headrace:pgbouncer=true@db:6432/headrace" + query.format("pgbouncer=true")
    core = settings.load(GOOD | {"DATABASE_URL": address}).core
    assert core.pooled
    assert core.connect_args == {"prepare_threshold": None}
    assert core.conninfo.partition("?")[0] == "postgresql://headrace:pgbouncer=true@db:6432/headrace"
    assert core.conninfo.partition("?")[2] in {"", "sslmode=require"}


def test_proxies_are_addresses_or_networks_and_none_by_default() -> None:
    assert settings.load(GOOD).core.proxies == []
    assert settings.load(GOOD | {"TRUSTED_PROXIES": "10.0.0.0/8, ::1,"}).core.proxies == ["10.0.0.0/8", "::1"]
    with pytest.raises(BadSettings, match="TRUSTED_PROXIES cannot be used: write addresses or networks"):
        settings.load(GOOD | {"TRUSTED_PROXIES": "10.0.0.1/8"})


def test_every_variable_has_a_line_in_the_example_and_every_line_is_read() -> None:
    assert set(active()) == set(settings.variables())
    assert all(settings.variables().values())


def test_every_line_of_the_example_is_explained_above_it() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+=", line):
            block = lines[:number][::-1]
            assert next(above for above in block if not re.match(r"\w+=", above)).startswith("# "), line


def test_the_example_can_be_used_as_it_stands() -> None:
    found = settings.load(active())
    alerts = {"alert_email", "alert_slack", "alert_webhook"}
    assert set(found.integrations) == {"elasticsearch", "stripe", "warehouse"} | alerts


def test_what_is_reserved_is_mentioned_and_not_active() -> None:
    assert "# SECRET_KEY=" in EXAMPLE.read_text().splitlines()
