"""A connection to Redis as bytes: commands out, replies in, in their order.

hiredis understands the replies. redis-py would do that too, in several coroutines and a time-out
for every reply, which costs more than a look-up may (docs/decisions/0018). Source: RESP2, and for
the greeting AUTH, SELECT and CLIENT SETNAME of the Redis commands.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import hiredis

DEFAULT_PORT = 6379


class RedisError(Exception):
    """Redis answered with an error; `code` is its first word, and the rest may quote a command."""

    def __init__(self, text: str) -> None:
        self.code = text.split(" ", 1)[0][:40]
        super().__init__(self.code)


class RedisLostError(Exception):
    """The connection is lost."""


class RedisGarbledError(RedisLostError):
    """What came is no answer to what was asked, so nothing that follows can be believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """Where Redis is, and how to get in."""

    host: str
    port: int
    uses_tls: bool
    user: str
    password: str = field(repr=False)
    database: int

    @classmethod
    def from_url(cls, url: str) -> Self:
        """From redis://user:password@host:port/database, or rediss:// for TLS."""
        parts = urlsplit(url)
        return cls(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or DEFAULT_PORT,
            uses_tls=parts.scheme == "rediss",
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            database=int(parts.path.strip("/") or 0),
        )


class Script:
    """A function in Lua, called by the hash of its text."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        # Redis names scripts by their SHA-1; nothing is kept secret or apart by it.
        self._sha = sha1(text, usedforsecurity=False).hexdigest().encode()

    def pack(self, *arguments: bytes, keys: int) -> bytes:
        """The command that calls it; the first of the arguments are keys."""
        return pack(b"EVALSHA", self._sha, b"%d" % keys, *arguments)


def pack(*arguments: bytes) -> bytes:
    """A command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]  # its stub takes one
    return packed


class RedisWire(asyncio.Protocol):
    """`heard` gets every reply, a RedisError where there is one, and `lost` whatever ended the
    connection, once; both are called outside of any task. Until `greet` has returned, `heard` is
    not called."""

    def __init__(self, heard: Callable[[Any], None], lost: Callable[[BaseException], None]) -> None:
        self._heard = heard
        self._lost = lost
        self._reader = hiredis.Reader(replyError=RedisError)
        self._transport: asyncio.Transport | None = None
        self._greeting: asyncio.Future[Any] | None = None

    async def greet(self, address: RedisAddress, *commands: bytes) -> str:
        """Connect, and have some commands carried out first; returns which primary this is in which
        of its lives, or nothing when it is none or does not tell. Raises RedisError,
        RedisLostError and OSError."""
        await asyncio.get_running_loop().create_connection(
            lambda: self,
            address.host,
            address.port,
            ssl=ssl.create_default_context() if address.uses_tls else None,
        )
        if address.password:
            user = [address.user.encode()] if address.user else []
            await self._ask(pack(b"AUTH", *user, address.password.encode()))
        if address.database:
            await self._ask(pack(b"SELECT", b"%d" % address.database))
        for command in (pack(b"CLIENT", b"SETNAME", b"ticketd"), *commands):
            await self._ask(command)
        try:
            server = _identity(await self._ask(pack(b"INFO")))
        except RedisError:  # a user who may not ask
            server = ""
        self._greeting = None
        return server

    def send(self, commands: bytes) -> None:
        if self._transport is not None:
            self._transport.write(commands)

    def close(self) -> None:
        """Nothing is called any more."""
        self._heard = self._lost = _ignore
        if self._transport is not None:
            self._transport.abort()

    async def _ask(self, command: bytes) -> Any:
        self._greeting = asyncio.get_running_loop().create_future()
        self.send(command)
        reply = await self._greeting
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a Transport for TCP

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            # False is no reply of RESP2.
            while (reply := self._reader.gets()) is not False:
                if self._greeting is None:
                    self._heard(reply)
                elif not self._greeting.done():
                    self._greeting.set_result(reply)
        except hiredis.ProtocolError:
            self._end(RedisGarbledError())

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or RedisLostError())

    def _end(self, error: BaseException) -> None:
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_exception(RedisLostError())
        lost, self._lost = self._lost, _ignore
        lost(error)
        if self._transport is not None:
            self._transport.abort()


def _identity(info: bytes) -> str:
    """A restart changes the run's id, and a promotion the replication's."""
    found = dict(line.partition(b":")[::2] for line in info.splitlines())
    if found.get(b"role") != b"master":
        return ""
    return f"{found.get(b'run_id', b'').decode()}:{found.get(b'master_replid', b'').decode()}"


def _ignore(_: object) -> None:
    """Nobody is interested any more."""
