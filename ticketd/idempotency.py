"""Idempotency-Key: what a client says to have a POST carried out once, however often it is sent.

Source: draft-ietf-httpapi-idempotency-key-header-07. The draft wants a string in quotes (RFC 8941);
the same key without quotes, as many clients send it, is the same key.
"""

import re
from hashlib import sha256
from typing import NamedTuple, NoReturn
from uuid import UUID

from ticketd.errors import FieldError, IdempotencyKeyReusedError, InvalidFieldsError
from ticketd.tokens import ANYONE, Caller

HEADER = b"idempotency-key"
REPLAYED = (b"idempotency-replayed", b"true")
KEY_CHARACTERS = 255
QUOTED = re.compile(rb'"([ !#-\[\]-~]*)"')
ESCAPING = re.compile(rb'"((?:[ !#-\[\]-~]|\\["\\])*)"')
BARE = re.compile(rb"[!#-+\--~]*")
ESCAPED = re.compile(rb"\\(.)")
DIGEST_BYTES = 16


class Key(NamedTuple):
    """`digest` stands for caller, route and key, `fingerprint` for what was sent with it. Both are
    128 bits: enough against chance, and nobody can aim at the digest of another caller."""

    digest: bytes
    fingerprint: bytes


class Kept(NamedTuple):
    """What is kept under a key: the ticket that was created or changed, and the JSON that was
    answered or, of an announced attachment, that the answer is made from; None where it follows
    from the request and the id."""

    fingerprint: bytes
    ticket_id: UUID
    answer: bytes | None


def read_key(header: bytes, caller: Caller, route: str, sent: bytes) -> Key:
    """The key of a request to a route, such as "create". Raises InvalidFieldsError."""
    key = _content(header)
    name = "" if caller is ANYONE else caller.name
    scope = f"{name}\0{route}\0".encode()
    return Key(_digest(scope + key), _digest(sent))


def require_same(kept: Kept, key: Key) -> Kept:
    """Raises IdempotencyKeyReusedError when the key was sent with something else."""
    if kept.fingerprint != key.fingerprint:
        raise IdempotencyKeyReusedError
    return kept


def _digest(content: bytes) -> bytes:
    return sha256(content).digest()[:DIGEST_BYTES]


def _content(header: bytes) -> bytes:
    # Hardly any key has something escaped in it, and this is the shorter way.
    quoted = QUOTED.fullmatch(header)
    if quoted is not None:
        key = quoted[1]
    elif escaping := ESCAPING.fullmatch(header):
        key = ESCAPED.sub(rb"\1", escaping[1])
    elif BARE.fullmatch(header):
        key = header
    else:
        _refuse("malformed_header", "must be one key of visible ASCII characters, best in quotes")
    if not key:
        _refuse("too_short", "has 0 characters, at least 1 is needed")
    if len(key) > KEY_CHARACTERS:
        _refuse("too_long", f"has {len(key)} characters, at most {KEY_CHARACTERS} are allowed")
    return key


def _refuse(code: str, message: str) -> NoReturn:
    raise InvalidFieldsError([FieldError(field="Idempotency-Key", code=code, message=message)])
