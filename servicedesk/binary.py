"""Values as PostgreSQL's binary format has them, one at a time and as arrays.

Source: PostgreSQL, array_recv in arrayfuncs.c (dimensions, a flag, the element type, then for each
dimension its length and lower bound; each element with its length, -1 for NULL), timestamptz_recv
in timestamp.c (microseconds since 2000), uuid_recv in uuid.c.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import repeat
from uuid import UUID

UUID_OID, TEXT_OID, TIMESTAMPTZ_OID = 2950, 25, 1184
INT8_OID, INT4_OID, INT2_OID = 20, 23, 21
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_HEAD = struct.Struct("!iiIii").pack
_LENGTH = struct.Struct("!i").pack
_INT2 = struct.Struct("!h").pack
_INT8 = struct.Struct("!q").pack
_INT2_ELEMENT = struct.Struct("!ih").pack
_INT4_ELEMENT = struct.Struct("!ii").pack
_INT8_ELEMENT = struct.Struct("!iq").pack
_UUID_LENGTH = _LENGTH(16)
_NULL = _LENGTH(-1)


def text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def int2(value: int) -> bytes:
    return _INT2(value)


def int8(value: int) -> bytes:
    return _INT8(value)


def timestamptz(moment: datetime | None) -> bytes | None:
    return None if moment is None else _INT8(_microseconds(moment))


def uuids(values: Sequence[UUID]) -> bytes:
    return _array(UUID_OID, len(values), [_UUID_LENGTH + value.bytes for value in values])


def uuids_of_bytes(values: Sequence[bytes | None]) -> bytes:
    """The same from 16 bytes each."""
    elements = [_NULL if value is None else _UUID_LENGTH + value for value in values]
    return _array(UUID_OID, len(values), elements)


class Texts(list[str]):
    """Texts that are given to many statements, not to be changed: their array is made once."""

    def __init__(self, elements: Mapping[str, bytes]) -> None:
        """From each text's `text_element`."""
        super().__init__(elements)
        self.array = _array(TEXT_OID, len(elements), elements.values())


def text_element(value: str) -> bytes:
    """Raises UnicodeEncodeError for a lone surrogate."""
    content = value.encode()
    return _LENGTH(len(content)) + content


def texts(values: Sequence[str | None]) -> bytes:
    """Raises UnicodeEncodeError for a lone surrogate."""
    if isinstance(values, Texts):
        return values.array
    elements = []
    for value in values:
        elements.append(_NULL if value is None else text_element(value))
    return _array(TEXT_OID, len(values), elements)


def utf8s(values: Sequence[bytes]) -> bytes:
    """Texts that are in UTF-8 already."""
    return _array(TEXT_OID, len(values), [_LENGTH(len(value)) + value for value in values])


def utf8s_or_null(values: Sequence[bytes | None]) -> bytes:
    elements = [_NULL if value is None else _LENGTH(len(value)) + value for value in values]
    return _array(TEXT_OID, len(values), elements)


def int2s(values: Sequence[int]) -> bytes:
    return _array(INT2_OID, len(values), map(_INT2_ELEMENT, repeat(2), values))


def int4s(values: Sequence[int]) -> bytes:
    return _array(INT4_OID, len(values), map(_INT4_ELEMENT, repeat(4), values))


def int8s(values: Sequence[int]) -> bytes:
    return _array(INT8_OID, len(values), map(_INT8_ELEMENT, repeat(8), values))


def timestamptzs(moments: Sequence[datetime | None]) -> bytes:
    elements = [
        _NULL if moment is None else _INT8_ELEMENT(8, _microseconds(moment)) for moment in moments
    ]
    return _array(TIMESTAMPTZ_OID, len(moments), elements)


def _microseconds(moment: datetime) -> int:
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _array(element_type: int, count: int, elements: Iterable[bytes]) -> bytes:
    """Flagged as holding NULLs, which the server takes as leave to look for them."""
    return _HEAD(1, 1, element_type, count, 1) + b"".join(elements)
