"""The attachment, what may be attached, and what its file may be called. Free of technology."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

State = Literal["pending", "ready", "removing"]

NAME_CHARACTERS = 200
CONTENT_TYPE_CHARACTERS = 127
# What one PUT to S3 may carry.
LARGEST_BYTES = 5 * 1024**3
# Characters that no name has: controls and line ends, what separates paths, and what turns the
# direction of a text, so that `photo_gpj.exe` would show as `photo_exe.jpg`.
FORBIDDEN = r"\x00-\x1f\x7f-\x9f/\\\u2028\u2029\u202a-\u202e\u2066-\u2069"
# No white space at the ends, and not the two names that are paths. The contract has it as well.
NAME = rf"^(?!\.\.?$)[^{FORBIDDEN}\s]([^{FORBIDDEN}]*[^{FORBIDDEN}\s])?$"
# RFC 6838, 4.2, without parameters and in lower case.
CONTENT_TYPE = r"^[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*$"
SHA256 = r"^[0-9a-f]{64}$"

_NAME = re.compile(NAME.removesuffix("$"))
_CONTENT_TYPE = re.compile(CONTENT_TYPE.removesuffix("$"))
_SHA256 = re.compile(SHA256.removesuffix("$"))


class Attachment(NamedTuple):
    """`sha256` is the digest's 32 bytes. `completed_at` is set once it is ready."""

    id: UUID
    ticket_id: UUID
    state: State
    name: str
    content_type: str
    size: int
    sha256: bytes
    created_at: datetime
    completed_at: datetime | None

    @property
    def key(self) -> str:
        """Of its object: made of ids alone, so that no name of a file is ever part of a path."""
        return f"tickets/{self.ticket_id}/{self.id}"


class NewAttachment(NamedTuple):
    """What a client announces; every value is valid."""

    name: str
    content_type: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`most` attachments of a ticket, those being uploaded included, of at most `largest_bytes`
    each and of these `types`."""

    most: int
    largest_bytes: int
    types: frozenset[str]


def is_name(text: str) -> bool:
    return len(text) <= NAME_CHARACTERS and _NAME.fullmatch(text) is not None


def is_content_type(text: str) -> bool:
    return len(text) <= CONTENT_TYPE_CHARACTERS and _CONTENT_TYPE.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None
