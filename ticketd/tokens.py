"""Bearer tokens: a file of SHA-256 digests with scopes, read again when it changes.

A line is a name, the SHA-256 of the token in hex, and scopes joined by commas; # starts a
comment. A broken new file is refused as a whole and the tokens known before stay.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from servicedesk.logs import Log
from ticketd.errors import UnauthenticatedError

READ = "tickets:read"
WRITE = "tickets:write"
SCOPES = frozenset({READ, WRITE})
DIGEST = re.compile(r"[0-9a-fA-F]{64}")
NAME = re.compile(r"[!-~]{1,100}")
HEAD_BYTES = 8
CHECK_SECONDS = 1.0
SEEN_HEADERS = 10_000
# Longer ones are those of somebody who pads a token with spaces.
SEEN_HEADER_BYTES = 512
MISSING = "Send a token: Authorization: Bearer …"


class TokenFileError(Exception):
    """The token file cannot be read or has a wrong line; the text says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sends a request, as the access log names them, and what they may do."""

    name: str
    scopes: frozenset[str]


# Tokens by the head of their digest; the whole digest is then compared in constant time.
Tokens = Mapping[bytes, tuple[bytes, Caller]]

ANYONE = Caller(name="anonymous", scopes=SCOPES)


def read_tokens(path: Path) -> Tokens:
    """Raises TokenFileError; a digest never appears in its text."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise TokenFileError(f"{path} cannot be read: {reason}") from error
    tokens: dict[bytes, tuple[bytes, Caller]] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        digest, caller = _parse_line(fields, f"{path}, line {number},")
        if digest[:HEAD_BYTES] in tokens:
            raise TokenFileError(f"{path}, line {number}, repeats a token")
        tokens[digest[:HEAD_BYTES]] = (digest, caller)
    return tokens


def _parse_line(fields: list[str], where: str) -> tuple[bytes, Caller]:
    if len(fields) != 3:
        raise TokenFileError(f"{where} does not have a name, a SHA-256 in hex and scopes")
    name, digest, scopes = fields
    unknown = set(scopes.split(",")) - SCOPES
    if not NAME.fullmatch(name):
        raise TokenFileError(f"{where} has a name that is not visible ASCII")
    if not DIGEST.fullmatch(digest):
        raise TokenFileError(f"{where} does not have a SHA-256 of 64 hex digits")
    if unknown:
        raise TokenFileError(f"{where} has scopes other than {READ} and {WRITE}")
    caller = Caller(name=name, scopes=frozenset(scopes.split(",")))
    return bytes.fromhex(digest), caller


class TokenFile:
    """Finds callers by their token; looks at the file at most once a second.

    The constructor raises TokenFileError.
    """

    def __init__(self, path: Path, monotonic: Callable[[], float], log: Log) -> None:
        self._path = path
        self._monotonic = monotonic
        self._log = log
        self._mark = self._look()
        self._tokens = read_tokens(path)
        self._seen: dict[bytes, Caller] = {}
        self._next_look = monotonic() + CHECK_SECONDS

    def caller(self, authorization: bytes | None) -> Caller:
        """The caller of an Authorization header. Raises UnauthenticatedError.

        A digest is looked up, never a token, so the time taken tells nothing about a token. That
        holds for headers seen before too: a dict finds bytes by their SipHash, whose key is this
        process's own, and compares them only when all 64 bits of it agree.
        """
        if self._monotonic() >= self._next_look:
            self._refresh()
        if authorization is None:
            raise UnauthenticatedError(MISSING, token_was_sent=False)
        caller = self._seen.get(authorization)
        if caller is None:
            caller = self._find(authorization)
            if len(self._seen) < SEEN_HEADERS and len(authorization) <= SEEN_HEADER_BYTES:
                self._seen[authorization] = caller
        return caller

    def _find(self, authorization: bytes) -> Caller:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise UnauthenticatedError(MISSING, token_was_sent=False)
        digest = hashlib.sha256(token.strip(b" ")).digest()
        known = self._tokens.get(digest[:HEAD_BYTES])
        if known is None or not hmac.compare_digest(known[0], digest):
            raise UnauthenticatedError("The token is not known here", token_was_sent=True)
        return known[1]

    def _refresh(self) -> None:
        self._next_look = self._monotonic() + CHECK_SECONDS
        mark = self._look()
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self._tokens = read_tokens(self._path)
            self._seen.clear()
        except TokenFileError as error:
            self._log.error("tokens_kept", reason=str(error), tokens=len(self._tokens))
        else:
            self._log.info("tokens_read", tokens=len(self._tokens))

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
