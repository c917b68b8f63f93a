"""The `smtp` channel: one mail an event, over TLS.

| what happens                                              | outcome      | because               |
| --------------------------------------------------------- | ------------ | --------------------- |
| accepted for at least one recipient                       | Acknowledged | a repeat would double |
| no connection, TLS, greeting, EHLO, no STARTTLS, log-in   | Unreachable  | no mail would pass    |
| 421, time-out or break after the log-in                   | Unreachable  | most likely for all   |
| other 4xx to MAIL, RCPT, DATA (greylisting, mailbox full) | Rejected     | this mail, for now    |
| 5xx to MAIL, RCPT, DATA                                   | Rejected     | this mail             |
"""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import aiosmtplib

from notifyd.channels.channel import failure_text
from notifyd.channels.mail import compose
from servicedesk.logs import Log
from servicedesk.queue.row import Acknowledged, Outcome, QueuedRow, Rejected, Unreachable

SERVICE_CLOSING = 421
QUIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """`security`: "starttls" upgrades or fails, "tls" starts with TLS, "none" is for loopback."""

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    username: str | None
    password: str | None = field(repr=False)


class SmtpChannel:
    """A connection a mail, at most `connections` at a time: servers limit both."""

    def __init__(
        self,
        *,
        server: MailServer,
        sender: str,
        recipients: Sequence[str],
        timeout_seconds: float,
        connections: int,
        tls: ssl.SSLContext,
        log: Log,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self._server = server
        self._sender = sender
        self._recipients = list(recipients)
        self._slots = asyncio.Semaphore(connections)
        self._tls = tls
        self._log = log

    async def deliver(self, row: QueuedRow) -> Outcome:
        message = compose(row, self._sender, self._recipients)
        try:
            async with asyncio.timeout(self.timeout_seconds), self._slots:
                return await self._mail(row, message)
        except TimeoutError:
            text = f"not sent within {self.timeout_seconds:g}s"
            return Unreachable(error=failure_text("TimeoutError", text))

    async def _mail(self, row: QueuedRow, message: bytes) -> Outcome:
        client = self._client()
        try:
            await client.connect()
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            return Unreachable(error=failure_text(type(error).__name__, _reason(error)))
        try:
            refused, _ = await client.sendmail(self._sender, self._recipients, message)
        except aiosmtplib.SMTPException as error:
            return _judged(error)
        finally:
            await _leave(client)
        if refused:
            codes = sorted({answer.code for answer in refused.values()})
            self._log.warning(
                "mail_recipients_refused", event_id=row.event_id, count=len(refused), codes=codes
            )
        return Acknowledged()

    def _client(self) -> aiosmtplib.SMTP:
        server = self._server
        return Client(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.security == "tls",
            start_tls=server.security == "starttls",
            tls_context=self._tls,
            # Half, so that a server that is away is told apart from one that is slow.
            timeout=self.timeout_seconds / 2,
            # Otherwise the library asks DNS for this machine's name, blocking the event loop.
            local_hostname=self._sender.rpartition("@")[2],
        )

    async def probe(self) -> bool:
        return True

    async def close(self) -> None:
        """Nothing to release: every mail closes its own connection."""


class Client(aiosmtplib.SMTP):
    """Closes at once, also after a log-in or a TLS handshake that failed half-way. The library's
    own close leaves the socket to a farewell of TLS that the other side may never answer."""

    def close(self) -> None:
        transport = self.transport
        super().close()
        if transport is not None:
            cast(asyncio.Transport, transport).abort()


def _judged(error: aiosmtplib.SMTPException) -> Outcome:
    text = failure_text(type(error).__name__, _reason(error))
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return Rejected(error=text)
    if isinstance(error, aiosmtplib.SMTPResponseException) and error.code != SERVICE_CLOSING:
        return Rejected(error=text)
    return Unreachable(error=text)


async def _leave(client: aiosmtplib.SMTP) -> None:
    # The mail's fate is decided; a server that answers QUIT badly changes nothing, and there is
    # nothing to wait for once it has answered.
    with contextlib.suppress(aiosmtplib.SMTPException, OSError):
        await client.quit(timeout=QUIT_SECONDS)
    client.close()


def _reason(error: Exception) -> str:
    """The server's answer, without the addresses that the exception's own text would repeat."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        answers = sorted({f"{each.code} {each.message}" for each in error.recipients})
        return "; ".join(answers)
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"{error.code} {error.message}"
    return str(error)
