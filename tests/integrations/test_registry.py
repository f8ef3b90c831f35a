"""The folder is the registry: adding an integration touches no existing file."""

import base64
import hashlib
import hmac
import re
from pathlib import Path

import pytest

import integrations
from integrations import (
    BadDelivery,
    BadSignature,
    EventKey,
    Hmac,
    Integration,
    IntegrationSettings,
    Lines,
    Signed,
    Source,
    WebhookSource,
)

CHANNELS = ("alert_email", "alert_slack", "alert_webhook")


def test_every_module_without_underscore_is_loaded_as_one_integration() -> None:
    folder = Path(integrations.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert set(integrations.load()) == modules == {*CHANNELS, "elasticsearch", "stripe", "warehouse"}


def test_a_new_module_in_the_folder_is_found_without_touching_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pigeons.py").write_text(
        "from integrations import Integration, IntegrationSettings\n"
        "class Pigeons(Integration):\n    name = 'pigeons'\n    Settings = IntegrationSettings\n"
    )
    monkeypatch.setattr(integrations, "__path__", [*integrations.__path__, str(tmp_path)])
    assert integrations.load()["pigeons"].event("landed") == EventKey("pigeons", "landed")


def test_two_integrations_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "depot.py").write_text(
        "from integrations import Integration\nclass Depot(Integration):\n    name = 'warehouse'\n"
    )
    monkeypatch.setattr(integrations, "__path__", [*integrations.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match=r"integrations\.depot and integrations\.warehouse share a name"):
        integrations.load()


@pytest.mark.parametrize("name", [*CHANNELS, "elasticsearch", "stripe", "warehouse"])
def test_every_integration_documents_its_settings_and_names_their_variables(name: str) -> None:
    integration = integrations.load()[name]
    fields = integration.Settings.model_fields
    assert integration.name == name
    assert all(field.description for field in fields.values())
    variables = {integration.variable(field) for field in fields} - {"SMTP_URL"}
    assert all(variable.startswith(f"{name.upper()}_") for variable in variables)


def test_loading_twice_gives_the_same_classes() -> None:
    assert integrations.load() == integrations.load()


def test_an_integration_without_a_probe_or_deliveries_says_so() -> None:
    class Silent(Integration):
        name = "silent"

    silent = Silent(IntegrationSettings())
    with pytest.raises(NotImplementedError, match="Silent cannot be probed"):
        silent.probe()
    with pytest.raises(NotImplementedError, match="Silent takes no deliveries"):
        silent.verify({}, b"", 0.0)
    silent.close()


def test_a_person_begins_with_a_variable_that_has_to_be_set() -> None:
    first = {name: kind.first_variable() for name, kind in integrations.load().items()}
    assert (first["warehouse"], first["stripe"], first["alert_email"]) == (
        "WAREHOUSE_URL",
        "STRIPE_API_KEY",
        "ALERT_EMAIL_TO",
    )


HARBOUR = """
from integrations import Body, Header, Hmac, Source, WebhookSource

class Harbour(WebhookSource):
    name = "harbour"
    source = Source(
        scheme=Hmac("X-Harbour-Sign", prefix="v0=", encoding="base64"),
        id=Body("event.id"),
        type=Header("X-Harbour-Kind"),
        subject=(Body("parcels.0.number"), Body("depot")),
    )
"""


def test_a_source_of_webhooks_is_one_class_of_options_in_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harbour.py").write_text(HARBOUR)
    monkeypatch.setattr(integrations, "__path__", [*integrations.__path__, str(tmp_path)])
    kind = integrations.load()["harbour"]
    assert [kind.variable(field) for field in kind.Settings.model_fields] == ["HARBOUR_WEBHOOK_SECRETS"]
    harbour = kind(kind.Settings.model_validate({"webhook_secrets": "s3cret"}))
    body = b'{"event":{"id":42},"parcels":[{"number":"p7"}],"harbour":"d1"}'
    headers = {"X-Harbour-Sign": "v0=" + base64.b64encode(hmac.digest(b"s3cret", body, "sha256")).decode()}
    told = harbour.verify({**headers, "x-harbour-kind": "parcel.lost"}, body, 0.0)
    assert (told.external_id, told.type, told.subject, told.signed_at) == ("42", "parcel.lost", "p7", None)
    with pytest.raises(BadDelivery, match="X-Harbour-Kind"):
        harbour.verify(headers, body, 0.0)
    with pytest.raises(BadSignature):
        harbour.verify(headers, body + b" ", 0.0)
    harbour.probe()


def test_a_source_of_webhooks_without_its_options_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="declare its `source`"):
        type("Nameless", (WebhookSource,), {"name": "nameless"})


def test_an_event_without_an_id_is_known_by_its_bytes() -> None:
    source = Source(scheme=Hmac("X-Sign"))
    told = source.describe(Signed("", None, 0), Lines("harbour", {}), {"type": "a"}, b"bytes")
    assert told.external_id == "sha256:" + hashlib.sha256(b"bytes").hexdigest()


def test_one_module_alone_knows_the_http_library() -> None:
    folder = Path(integrations.__file__).parent
    knowing = [
        path.name
        for path in folder.glob("*.py")
        if re.search(r"^\s*(import|from) httpx", path.read_text(), re.MULTILINE)
    ]
    assert knowing == ["_http.py"]
