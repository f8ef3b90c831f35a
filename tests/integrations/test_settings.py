"""Settings arrive as strings from an environment, so they are parsed, judged, and never repeated."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from integrations._secrets import read_secret
from integrations.elasticsearch import ElasticsearchSettings
from integrations.stripe import StripeSettings
from integrations.warehouse import WarehouseSettings

GOOD: dict[str, Any] = {"url": "https://wms.example.com/", "token": "t0ken"}


def test_strings_become_typed_settings() -> None:
    settings = WarehouseSettings(**GOOD, webhook_secrets="whsec_bmV3ZXI=, whsec_b2xkZXI=")
    assert settings.url == "https://wms.example.com"
    assert [s.value.get_secret_value() for s in settings.webhook_secrets] == ["whsec_bmV3ZXI=", "whsec_b2xkZXI="]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "wms.example.com"),
        ("url", "ftp://wms.example.com"),
        ("url", "https://"),
        ("url", "https://wms.example.com:hello"),
        ("url", "https://[::1"),
        ("url", "https://wms.example.com/?key=hunter2"),
        ("url", "https://user:hunter2@wms.example.com"),
        ("url", "http://wms.example.com"),
        ("url", "http://127.0.0.1.evil.example"),
        ("url", "http://10.0.0.1"),
        ("token", ""),
        ("token", "hunter2\n"),
        ("token", "hunter2 hunter2"),
        ("token", "hunter²"),
        ("webhook_secrets", "whsec_hunter2!"),
        ("webhook_secrets", "whsec_"),
        ("webhook_secrets", "whsec_aHVudGVy@2026-13-01"),
        ("webhook_secrets", "whpk_hunter2"),
    ],
)
def test_a_wrong_value_names_its_field_and_is_not_repeated(field: str, value: str) -> None:
    with pytest.raises(ValidationError) as caught:
        WarehouseSettings(**{**GOOD, field: value})
    assert field in str(caught.value)
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:1", "https://10.0.0.1:8443"]
)
def test_plain_http_is_for_this_machine_only(url: str) -> None:
    assert WarehouseSettings(**{**GOOD, "url": url}).url == url


def test_a_missing_and_an_unknown_setting_are_named() -> None:
    with pytest.raises(ValidationError, match="token"):
        WarehouseSettings(url="https://wms.example.com")  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="tokn"):
        WarehouseSettings(**GOOD, tokn="x")  # type: ignore[call-arg]


def test_no_secret_shows_when_settings_are_printed() -> None:
    stripe = StripeSettings(api_key="hunter2", webhook_secrets="whsec_hunter2")
    search = ElasticsearchSettings(url="http://elastic:hunter2@search:9200")
    assert stripe.api_base == "https://api.stripe.com"
    assert "hunter2" not in f"{stripe!r} {stripe} {search!r} {search}"


@pytest.mark.parametrize(
    ("written", "value", "until"),
    [
        ("s3cret", "s3cret", None),
        ("s3cret@2026-12-01T00:00Z", "s3cret", datetime(2026, 12, 1, tzinfo=UTC)),
        ("s3cret@2026-12-01", "s3cret", datetime(2026, 12, 1, tzinfo=UTC)),
        ("s3cret@2026-12-01T02:00+02:00", "s3cret", datetime(2026, 12, 1, tzinfo=UTC)),
        ("p@ss@word", "p@ss@word", None),
        ("p@2026@2026-12-01", "p@2026", datetime(2026, 12, 1, tzinfo=UTC)),
    ],
)
def test_a_secret_may_have_an_end(written: str, value: str, until: datetime | None) -> None:
    (found,) = StripeSettings(api_key="k", webhook_secrets=written).webhook_secrets
    assert (found.value.get_secret_value(), found.until) == (value, until)


def test_a_secret_is_over_at_its_end_by_the_clock_of_whoever_asks() -> None:
    secret = read_secret("s3cret@2026-12-01")
    assert [secret.ended(secret.until.timestamp() + seconds) for seconds in (-1, 0, 1)] == [False, True, True]
    assert not read_secret("s3cret").ended(1e12)
