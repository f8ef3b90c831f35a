"""A real SMTP server that keeps what it gets, or answers as a test wants it to."""

import ssl
from asyncio import Server
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from socket import create_connection
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

CERTIFICATES = Path(__file__).parent / "certificates"
CERTIFICATE = CERTIFICATES / "localhost.pem"
USER, PASSWORD = "kim@example.com", "hunter2:hunter2"


@dataclass
class Mail:
    """What one server got, and how it answers."""

    port: int = 0
    messages: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    #: Whether each message came over an encrypted connection.
    encrypted: list[bool] = field(default_factory=list)
    #: Answers to the recipients of these addresses, and to every message, instead of taking them.
    refuses: dict[str, str] = field(default_factory=dict)
    answer: str = "250 OK"

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        del server, session, options
        if address in self.refuses:
            return self.refuses[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - the same
        del server
        if self.answer.startswith("250"):
            self.messages.append(_parsed(envelope.content))
            self.recipients.append(list(envelope.rcpt_tos))
            self.encrypted.append(session.ssl is not None)
        return self.answer


def _parsed(content: bytes | str | None) -> EmailMessage:
    assert isinstance(content, bytes)
    return message_from_bytes(content, policy=policy.default)


class _Server(Controller):
    """The library's server on a free port of the system's choice."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, Server)
        self.port = self.server.sockets[0].getsockname()[1]
        with create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.recv(1)


def signs_in(server: object, session: object, envelope: object, mechanism: str, data: Any) -> AuthResult:
    """Let our user in and nobody else."""
    del server, session, envelope, mechanism
    known = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=known, handled=known)


@contextmanager
def mail_server(*, starttls: bool = False, auth: bool = False) -> Iterator[Mail]:
    """Run a server while the block runs."""
    mail = Mail()
    options: dict[str, Any] = {}
    if starttls:
        options["tls_context"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        options["tls_context"].load_cert_chain(CERTIFICATE, CERTIFICATES / "localhost.key")
    if auth:
        options |= {"authenticator": signs_in, "auth_required": True, "auth_require_tls": starttls}
    server = _Server(mail, hostname="127.0.0.1", port=0, **options)
    server.start()
    mail.port = server.port
    try:
        yield mail
    finally:
        server.stop()
