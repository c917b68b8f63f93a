"""A real SMTP server (aiosmtpd) as the receiver of mails, with STARTTLS and log-in."""

import asyncio
import ssl
from collections.abc import Mapping
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.processes import free_port, wait_until

TLS = Path(__file__).parent / "tls"
CERTIFICATE = TLS / "certificate.pem"
ACCEPTED = "250 OK"
USERNAME, PASSWORD = "desk", "p@ss/слово"


def client_tls() -> ssl.SSLContext:
    """Trusts the test's certificate and nothing else."""
    return ssl.create_default_context(cafile=CERTIFICATE)


def _server_tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE, TLS / "key.pem")
    return context


def _authenticate(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
) -> AuthResult:
    known = isinstance(data, LoginPassword) and data == LoginPassword(
        login=USERNAME.encode(), password=PASSWORD.encode()
    )
    # Not handled: the server itself is to answer a wrong password.
    return AuthResult(success=known, handled=known)


class _Controller(Controller):
    """Remembers its connections, because stopping in the middle of one leaves it unclosed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.connections: list[SMTP] = []
        super().__init__(*args, **kwargs)

    def factory(self) -> SMTP:
        connection = cast(SMTP, super().factory())  # type: ignore[no-untyped-call] # not typed there
        self.connections.append(connection)
        return connection

    def is_idle(self) -> bool:
        return all(connection.transport is None for connection in self.connections)


class Mailbox:
    """Listens on a loopback port while it is entered, a free one unless given; keeps all mails it
    accepted.

    `answers` maps a command (MAIL, RCPT, DATA) to the answer that it gives instead of accepting,
    in bytes where it is no ASCII. It takes `seconds` over a mail.
    """

    def __init__(
        self,
        *,
        secure: bool = True,
        answers: Mapping[str, str | bytes] | None = None,
        seconds: float = 0.0,
        port: int | None = None,
    ) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.answers = {} if answers is None else answers
        self.seconds = seconds
        self.port = port or free_port()
        kwargs: dict[str, Any] = {}
        if secure:
            kwargs = {
                "tls_context": _server_tls(),
                "require_starttls": True,
                "auth_required": True,
                "authenticator": _authenticate,
            }
        self._controller = _Controller(self, hostname="127.0.0.1", port=self.port, **kwargs)

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str | bytes:
        envelope.mail_from = address
        return self.answers.get("MAIL", ACCEPTED)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str | bytes:
        answer = self.answers.get(f"RCPT {address}", self.answers.get("RCPT", ACCEPTED))
        if answer == ACCEPTED:
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str | bytes:
        await asyncio.sleep(self.seconds)
        answer = self.answers.get("DATA", ACCEPTED)
        if answer == ACCEPTED:
            content = cast(bytes, envelope.original_content)
            self.mails.append(message_from_bytes(content, policy=default))
            self.recipients.append(list(envelope.rcpt_tos))
        return answer

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        wait_until(self._controller.is_idle, 10, "end of all SMTP connections")
        self._controller.stop()
