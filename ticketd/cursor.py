"""Cursors of the list: where a page ended, opaque and tamper-evident.

A cursor is base64url of the last id and an HMAC-SHA256, cut to 16 bytes, over the id and the
filters, so it fits only the filters that it was made for.
"""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from uuid import UUID

import orjson

from ticketd.errors import FieldError, InvalidFieldsError

ID_BYTES = 16
TAG_BYTES = 16
FILTERS = ("status", "priority", "assignee", "created_after", "created_before")
# Separates these tags from any other use of the same secret.
PURPOSE = b"ticketd list cursor 1"


class Cursors:
    """Makes and opens cursors with a secret. Cursors end with their secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, last_id: UUID, parameters: Mapping[str, str]) -> str:
        """`parameters` are those of the request; what is not a filter is ignored."""
        content = last_id.bytes + self._tag(last_id.bytes, parameters)
        return urlsafe_b64encode(content).rstrip(b"=").decode()

    def open(self, cursor: str, parameters: Mapping[str, str]) -> UUID:
        """Raises InvalidFieldsError when this server did not make it for these filters."""
        try:
            content = urlsafe_b64decode(cursor.encode("ascii") + b"=")
        except (Base64Error, ValueError):
            content = b""
        last_id, tag = content[:ID_BYTES], content[ID_BYTES:]
        genuine = hmac.compare_digest(tag, self._tag(last_id, parameters))
        # The last character has two spare bits, and the decoder skips foreign characters: only
        # the one spelling that `make` writes is a cursor.
        if not genuine or self.make(UUID(bytes=last_id), parameters) != cursor:
            message = "was not given out by this list for these filters; start without a cursor"
            error = FieldError(field="cursor", code="invalid_cursor", message=message)
            raise InvalidFieldsError([error])
        return UUID(bytes=last_id)

    def _tag(self, last_id: bytes, parameters: Mapping[str, str]) -> bytes:
        filters = orjson.dumps([parameters.get(name) for name in FILTERS])
        message = PURPOSE + last_id + filters
        return hmac.digest(self._secret, message, hashlib.sha256)[:TAG_BYTES]
