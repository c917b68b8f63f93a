"""Conditional requests: entity tags are ticket versions in quotes.

Source: RFC 9110, 8.8.3 and 13.1. A tag that ticketd cannot have made matches nothing.
"""

import re
from functools import lru_cache

from ticketd.errors import FieldError, InvalidFieldsError
from ticketd.messages import HeaderBlock
from ticketd.tickets import Versions

# The grammar of a list: empty elements and white space around commas are allowed (5.6.1).
ENTITY_TAG = rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
ENTITY_TAGS = re.compile(
    rb"[ \t,]*" + ENTITY_TAG + rb"(?:[ \t]*,[ \t,]*" + ENTITY_TAG + rb")*[ \t,]*"
)
TAG = re.compile(rb'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
VERSION = re.compile(rb"[1-9][0-9]{0,18}")


@lru_cache(maxsize=1024)
def entity_tag(version: int) -> HeaderBlock:
    """The ETag header of a ticket."""
    return HeaderBlock((b"etag", b'"%d"' % version))


def expected_versions(if_match: bytes) -> Versions:
    """The versions that If-Match lets pass, None for `*`. Comparison is strong (13.1.1), so weak
    tags name none. Raises InvalidFieldsError when it is no list of tags."""
    if if_match == b"*":
        return None
    tags = _tags(if_match)
    if tags is None:
        message = 'must be * or entity tags in quotes, such as "3"'
        error = FieldError(field="If-Match", code="malformed_header", message=message)
        raise InvalidFieldsError([error])
    return frozenset(
        int(tag) for weak, tag in tags if not weak and VERSION.fullmatch(tag) is not None
    )


def is_current(if_none_match: bytes, version: int) -> bool:
    """Does the caller have this version already? Comparison is weak (13.1.2). A malformed list
    is ignored: the condition only ever saves a transfer."""
    if if_none_match == b"*":
        return True
    current = b"%d" % version
    return any(tag == current for _, tag in _tags(if_none_match) or ())


def _tags(value: bytes) -> list[tuple[bytes, bytes]] | None:
    return TAG.findall(value) if ENTITY_TAGS.fullmatch(value) else None
