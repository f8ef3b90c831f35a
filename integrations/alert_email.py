"""Alerts by e-mail, handed to the mail server that you name.

    smtp://mail.internal:25                           as it is; with a password only on this very machine
    smtp+starttls://kim:secret@mail.example.com:587   encrypted from the second word on, or not sent at all
    smtps://kim:secret@mail.example.com:465           encrypted from the start

A message has the same ``Message-ID`` each time it is tried, and a "resolved" refers to its "opened", so that mail
programs fold repeats and show both in one thread. A server's 4xx means later and its 5xx means no, as SMTP has it.
"""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Annotated, ClassVar
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from integrations._calls import noted
from integrations._channel import Channel, Notice, told
from integrations._errors import IntegrationError, Rejected, Unauthorized, Unavailable
from integrations._settings import IntegrationSettings, is_loopback, split_commas

__all__ = ["AlertEmail", "AlertEmailSettings"]

TIMEOUT = 10.0
"""Seconds for each step of the conversation."""

_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
_MAILBOX = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(\.[\w-]+)*", re.ASCII)
_LATER, _NO = 400, 500
_UNAUTHORIZED = frozenset({530, 534, 535, 538})


@dataclass(frozen=True, slots=True)
class _Server:
    """A mail server as its address names it."""

    scheme: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)


def _server(address: str) -> _Server:
    parts = urlsplit(address.strip())
    port = parts.port
    if parts.scheme not in _PORTS or not parts.hostname or port == 0 or parts.path.strip("/") or parts.query:
        raise ValueError
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if bool(user) != bool(password) or not f"{user}{password}".isprintable():
        raise ValueError
    return _Server(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], user, password)


def _usable(value: SecretStr) -> SecretStr:
    try:
        server = _server(value.get_secret_value())
    except ValueError:
        raise ValueError("write an address like smtp+starttls://user:password@mail.example.com:587") from None
    if server.user and server.scheme == "smtp" and not is_loopback(server.host):
        raise ValueError("the password would travel in the open: write smtp+starttls:// or smtps://")
    return value


def _mailbox(value: str) -> str:
    if not _MAILBOX.fullmatch(value):
        raise ValueError("write plain addresses like oncall@example.com")
    return value


def _some(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError("write at least one address like oncall@example.com")
    return values


Mailbox = Annotated[str, AfterValidator(_mailbox)]
Mailboxes = Annotated[tuple[Mailbox, ...], BeforeValidator(split_commas), AfterValidator(_some)]


class AlertEmailSettings(IntegrationSettings):
    """Who gets alerts by e-mail, from whom, and through which server."""

    recipients: Mailboxes = Field(description="Addresses that get alerts by e-mail, comma-separated.")
    sender: Mailbox = Field(description="Address that these e-mails come from.")
    server: Annotated[SecretStr, AfterValidator(_usable)] = Field(
        description="Mail server that takes them, smtp+starttls://user:password@host:587, smtps:// or smtp://."
    )


class AlertEmail(Channel):
    """Sends notices by e-mail."""

    name: ClassVar[str] = "alert_email"
    Settings: ClassVar[type[IntegrationSettings]] = AlertEmailSettings
    _VARIABLES: ClassVar[dict[str, str]] = {
        "recipients": "ALERT_EMAIL_TO",
        "sender": "ALERT_EMAIL_FROM",
        "server": "SMTP_URL",
    }

    def __init__(self, settings: AlertEmailSettings) -> None:
        super().__init__(settings)
        self._recipients, self._sender = settings.recipients, settings.sender
        self._server = _server(settings.server.get_secret_value())
        self._tls = ssl.create_default_context()

    @classmethod
    def variable(cls, field: str) -> str:
        """Return the variable by the name that people know from elsewhere."""
        return cls._VARIABLES[field]

    def probe(self) -> None:
        """Greet the server and sign in, if a user is given."""
        with self._conversation() as server:
            server.noop()

    def tell(self, notice: Notice) -> list[str]:
        """Send a notice; see :class:`Channel`."""
        message_id = f"<{notice.id}@headrace>"
        with noted(self.name, "SEND", "message", message_id) as call, self._conversation() as server:
            call.tries = 1
            refused = server.send_message(self._written(notice), self._sender, self._recipients)
        return [f"{address} ({_said(*answer)})" for address, answer in refused.items()]

    def _written(self, notice: Notice) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = ", ".join(self._recipients)
        message["Subject"] = f"[headrace] {notice.headline}"
        message["Date"] = format_datetime(notice.resolved_at or notice.opened_at)
        message["Message-ID"] = f"<{notice.id}@headrace>"
        if notice.thread != notice.id:
            message["In-Reply-To"] = message["References"] = f"<{notice.thread}@headrace>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(f"{notice.body}\n\nSince {told(notice.opened_at)}. All of them: headrace alerts list\n")
        return message

    @contextmanager
    def _conversation(self) -> Iterator[smtplib.SMTP]:
        """Greet, encrypt and sign in; whatever goes wrong until the block ends becomes one of our errors."""
        try:
            with self._connect() as server:
                if self._server.scheme == "smtp+starttls":
                    server.starttls(context=self._tls)
                if self._server.user:
                    server.login(self._server.user, self._server.password)
                yield server
        except (smtplib.SMTPException, OSError) as error:
            # The library's own error may repeat what was sent to sign in: cut the chain.
            raise self._trouble(error) from None

    def _connect(self) -> smtplib.SMTP:
        host, port = self._server.host, self._server.port
        if self._server.scheme == "smtps":
            return smtplib.SMTP_SSL(host, port, timeout=TIMEOUT, context=self._tls)
        return smtplib.SMTP(host, port, timeout=TIMEOUT)

    def _trouble(self, error: Exception) -> IntegrationError:
        match error:
            case smtplib.SMTPRecipientsRefused(recipients=refused):
                # As long as one of them may be taken later, all are tried later: none has got it yet.
                return self._answered(*min(refused.values()))
            case smtplib.SMTPResponseException(smtp_code=code, smtp_error=said):
                return self._answered(code, said)
            case smtplib.SMTPNotSupportedError():
                return self._refusal(0, f"does not offer what SMTP_URL asks for ({_said(0, str(error))})")
            case ssl.SSLCertVerificationError():
                return self._refusal(0, f"shows a certificate that cannot be trusted ({error.verify_message})")
        return Unavailable(
            f"The mail server does not answer ({_said(0, str(error) or type(error).__name__)}): the message is sent"
            " later; if this persists, look at the server and at SMTP_URL.",
            upstream=self.name,
        )

    def _answered(self, code: int, text: bytes | str) -> IntegrationError:
        if not _LATER <= code < _NO:
            return self._refusal(code, f"refused the message ({_said(code, text)})")
        return Unavailable(
            f"The mail server asks for patience ({_said(code, text)}): the message is sent later; if this persists,"
            " look at the server's log.",
            upstream=self.name,
        )

    def _refusal(self, code: int, what: str) -> Rejected:
        kind = Unauthorized if code in _UNAUTHORIZED else Rejected
        advice = "check SMTP_URL, ALERT_EMAIL_FROM and ALERT_EMAIL_TO, then run it again"
        return kind(f"The mail server {what}: {advice}.", upstream=self.name, status=code)


def _said(code: int, text: bytes | str) -> str:
    """Return a server's words in one short line."""
    words = text.decode(errors="replace") if isinstance(text, bytes) else text
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in words).split())[:200]
    return f"{code} {line}" if code else line
