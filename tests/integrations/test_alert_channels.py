"""Notices reach a real receiver and a real mail server; what goes wrong is an error of ours, without a secret in it."""

import base64
import ssl
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from pydantic import SecretStr, ValidationError
from standardwebhooks.webhooks import Webhook

from integrations import (
    STANDARD,
    Channel,
    IntegrationError,
    Notice,
    Rejected,
    Throttled,
    Unauthorized,
    Unavailable,
    Verifier,
    WebhookSecret,
)
from integrations import alert_email as email_module
from integrations.alert_email import AlertEmail, AlertEmailSettings
from integrations.alert_slack import AlertSlack, AlertSlackSettings
from integrations.alert_webhook import AlertWebhook, AlertWebhookSettings
from tests.integrations.mail import CERTIFICATE, PASSWORD, USER, Mail, mail_server
from tests.integrations.scripted import Scripted, hang_up, reply

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
OPENED_AT = datetime(2026, 11, 25, 4, 0, tzinfo=UTC)
OPENED = Notice("k-opened", "k-opened", "late", "search", "The queue search is <late> & slow: add Wörkers.", OPENED_AT)
RESOLVED = Notice(
    "k-resolved", "k-opened", "late", "search", "It was late.", OPENED_AT, OPENED_AT + timedelta(minutes=3)
)


def webhook(address: str) -> AlertWebhook:
    return AlertWebhook(AlertWebhookSettings(url=SecretStr(address), secret=SecretStr(SECRET)))


def slack(address: str) -> AlertSlack:
    return AlertSlack(AlertSlackSettings(url=SecretStr(address)))


def email(port: int, scheme: str = "smtp", user: str = "", to: str = "a@example.com,b@example.com") -> AlertEmail:
    address = SecretStr(f"{scheme}://{user}localhost:{port}")
    return AlertEmail(AlertEmailSettings(recipients=to, sender="headrace@example.com", server=address))


def said(error: BaseException) -> str:
    """Return what a traceback says of an error, without the lines of the code."""
    shown = traceback.TracebackException.from_exception(error)
    lines = []
    while shown is not None:
        lines += list(shown.format_exception_only())
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)  # type: ignore[assignment]
    return "".join(lines)


def test_a_webhook_carries_a_signature_that_the_vendor_and_we_believe(server: Scripted) -> None:
    channel = webhook(server.url + "/hooks/1?tenant=7")
    assert channel.tell(OPENED) == []
    channel.tell(OPENED)
    first, second = server.seen
    assert first.path == "/hooks/1?tenant=7"
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == "k-opened"
    body = Webhook(SECRET).verify(first.body, first.headers)
    verifier = Verifier("us", STANDARD, [WebhookSecret(SecretStr(SECRET))])
    signed = verifier.verify(first.headers, first.body, time.time())
    assert signed.external_id == "k-opened"
    assert (body["type"], body["timestamp"]) == ("alert.opened", OPENED_AT.isoformat())
    assert body["data"] == {
        "thread": "k-opened",
        "kind": "late",
        "subject": "search",
        "sentence": OPENED.sentence,
        "opened_at": OPENED_AT.isoformat(),
        "resolved_at": None,
    }


def test_a_resolved_notice_says_when_and_what_it_was(server: Scripted) -> None:
    webhook(server.url).tell(RESOLVED)
    body = orjson.loads(server.seen[0].body)
    assert (body["type"], body["data"]["thread"]) == ("alert.resolved", "k-opened")
    assert body["timestamp"] == body["data"]["resolved_at"] == (OPENED_AT + timedelta(minutes=3)).isoformat()


def test_a_chat_gets_one_text_in_which_nothing_is_a_link(server: Scripted) -> None:
    slack(server.url + "/services/T0/B0/hunter2").tell(OPENED)
    text = orjson.loads(server.seen[0].body)["text"]
    assert text == "*Alert: late, search*\nThe queue search is &lt;late&gt; &amp; slow: add Wörkers."
    slack(server.url).tell(RESOLVED)
    assert "Resolved: late, search" in orjson.loads(server.seen[1].body)["text"]


FAILURES = [
    (reply(404, b"no_service"), Rejected),
    (reply(403, {"detail": "hunter2 and services/T0/B0/hunter2 are unknown"}), Unauthorized),
    (reply(422, {"detail": "services/T0/B0/hunter2 is no channel"}), Rejected),
    (reply(301, b"", {"Location": "https://example.com/hunter2"}), Rejected),
    (reply(429, b"", {"Retry-After": "60"}), Throttled),
    (reply(500), Unavailable),
    (hang_up, Unavailable),
]


@pytest.mark.parametrize("make", [webhook, slack])
@pytest.mark.parametrize(("step", "error"), FAILURES)
def test_a_receiver_that_does_not_take_it_is_one_of_our_errors_and_asked_once(
    server: Scripted, make: Callable[[str], Channel], step: Callable[..., None], error: type[IntegrationError]
) -> None:
    server.will(step)
    with pytest.raises(error) as caught:
        make(server.url + "/services/T0/B0/hunter2").tell(OPENED)
    assert "hunter2" not in said(caught.value)
    assert caught.value.upstream.startswith("alert_")
    assert len(server.seen) == 1


@pytest.mark.parametrize("make", [webhook, slack])
def test_any_answer_will_do_for_a_probe(server: Scripted, make: Callable[[str], Channel]) -> None:
    server.will(reply(405))
    make(server.url + "/hook").probe()
    with pytest.raises(Unavailable):
        make("http://127.0.0.1:1/hook").probe()


def test_an_email_goes_to_everybody_and_a_repeat_is_recognised() -> None:
    with mail_server() as mail:
        channel = email(mail.port)
        channel.probe()
        assert channel.tell(OPENED) == channel.tell(OPENED) == []
        channel.tell(RESOLVED)
    first, second, over = mail.messages
    assert mail.recipients[0] == ["a@example.com", "b@example.com"]
    assert first["Subject"] == "[headrace] Alert: late, search"
    assert OPENED.sentence in first.get_content()
    assert first["Message-ID"] == second["Message-ID"] == "<k-opened@headrace>"
    assert over["References"] == over["In-Reply-To"] == first["Message-ID"]
    assert over["Subject"] == "[headrace] Resolved: late, search"


def test_a_password_travels_encrypted_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    user = "kim%40example.com:hunter2%3Ahunter2@"
    with mail_server(starttls=True, auth=True) as mail:
        with pytest.raises(Rejected, match="certificate that cannot be trusted"):
            email(mail.port, "smtp+starttls", user).tell(OPENED)
        monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)
        email(mail.port, "smtp+starttls", user).tell(OPENED)
        with pytest.raises(Unauthorized) as caught:
            email(mail.port, "smtp+starttls", "kim:hunter3@").tell(OPENED)
    assert mail.encrypted == [True]
    assert "hunter" not in said(caught.value)
    assert (USER, PASSWORD) == ("kim@example.com", "hunter2:hunter2")
    with mail_server() as mail, pytest.raises(Rejected, match="does not offer what SMTP_URL asks for"):
        email(mail.port, "smtp+starttls").tell(OPENED)


def test_a_mail_server_says_later_or_no_and_names_whom_it_leaves_out() -> None:
    def told(change: Callable[[Mail], None]) -> list[str]:
        with mail_server() as mail:
            change(mail)
            return email(mail.port).tell(OPENED)

    def refusing(answer: str, *addresses: str) -> Callable[[Mail], None]:
        return lambda mail: mail.refuses.update(dict.fromkeys(addresses, answer))

    no, later = "550 no such user", "450 greylisted"
    assert told(refusing(no, "b@example.com")) == ["b@example.com (550 no such user)"]
    with pytest.raises(Rejected, match="550 no such user"):
        told(refusing(no, "a@example.com", "b@example.com"))
    with pytest.raises(Unavailable, match="450 greylisted"):
        told(refusing(later, "a@example.com", "b@example.com"))
    with pytest.raises(Rejected, match="554 spam"):
        told(lambda mail: setattr(mail, "answer", "554 spam"))
    with pytest.raises(Unavailable, match="451 try again"):
        told(lambda mail: setattr(mail, "answer", "451 try again"))


def test_a_mail_server_that_is_away_or_silent_is_unavailable(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        email(1).tell(OPENED)
    monkeypatch.setattr(email_module, "TIMEOUT", 0.2)
    silent = int(server.url.rpartition(":")[2])  # it speaks HTTP, and so never first
    with pytest.raises(Unavailable, match="does not answer"):
        email(silent, "smtp").tell(OPENED)


GOOD = {"recipients": "a@example.com", "sender": "h@example.com", "server": "smtp://localhost:25"}
BAD = [
    ("recipients", "hunter2"),
    ("recipients", ","),
    ("recipients", "a@example.com\r\nBcc: hunter2@example.com"),
    ("sender", "Headrace <hunter2@example.com>"),
    ("server", "mail.example.com"),
    ("server", "smtp://"),
    ("server", "smtp://mail:0"),
    ("server", "smtp://mail:hunter2"),
    ("server", "smtp://mail/hunter2"),
    ("server", "smtp://kim@mail"),
    ("server", "smtp://kim:hunter2@mail.example.com"),
]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_settings_of_email_that_cannot_be_used_are_refused_without_being_repeated(field: str, value: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AlertEmailSettings(**(GOOD | {field: value}))
    assert caught.value.errors()[0]["loc"][0] == field
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "server", ["smtp://mail", "smtps://k:h@mail", "smtp+starttls://k:h@[::1]:587", "smtp://k:h@[::1]"]
)
def test_settings_of_email_that_can_be_used_never_print_the_password(server: str) -> None:
    assert "k:h" not in repr(AlertEmailSettings(**(GOOD | {"server": server})))


@pytest.mark.parametrize(
    "address", ["http://hooks.example.com/x", "https://u:hunter2@hooks.example.com", "https://x/?hunter2#y", "hunter2"]
)
def test_an_address_to_post_to_is_encrypted_and_has_no_user(address: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AlertSlackSettings(url=SecretStr(address))
    assert "hunter2" not in str(caught.value)


def test_a_webhook_secret_is_base64_and_long_enough() -> None:
    for secret in ("whsec_hunter2!", "whsec_" + base64.b64encode(b"s" * 23).decode(), ""):
        with pytest.raises(ValidationError):
            AlertWebhookSettings(url=SecretStr("https://x/"), secret=SecretStr(secret))


def test_a_channel_without_a_way_to_tell_says_so() -> None:
    class Silent(Channel):
        name = "silent"

    with pytest.raises(NotImplementedError, match="Silent tells nobody"):
        Silent(AlertSlackSettings(url=SecretStr("https://x/"))).tell(OPENED)
