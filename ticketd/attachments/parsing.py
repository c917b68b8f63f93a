"""From a body to an announced attachment; every wrong member at once."""

from collections.abc import Callable, Mapping
from functools import partial

from ticketd.attachments.attachment import (
    NAME_CHARACTERS,
    Limits,
    NewAttachment,
    is_content_type,
    is_name,
    is_sha256,
)
from ticketd.validation import Check, Complaint, checked

NAME_MESSAGE = (
    f"must be a file's name of 1 to {NAME_CHARACTERS} characters, without / and \\, controls, "
    "marks that turn the direction of text, and white space at its ends; not . or .."
)
TYPE_MESSAGE = "must be a media type in lower case without parameters, such as image/png"
MEMBERS = ("name", "content_type", "size", "sha256")


def parser(limits: Limits) -> Callable[[bytes], NewAttachment]:
    """A function that raises MalformedBodyError and InvalidFieldsError."""
    checks: Mapping[str, Check] = {
        "name": partial(_text, is_name, "invalid_name", NAME_MESSAGE),
        "content_type": partial(_content_type, limits.types),
        "size": partial(_size, limits.largest_bytes),
        "sha256": partial(
            _text, is_sha256, "invalid_digest", "must be 64 hexadecimal digits in lower case"
        ),
    }

    def parse(body: bytes) -> NewAttachment:
        found = checked(body, checks, required=MEMBERS)
        return NewAttachment(
            name=found["name"],
            content_type=found["content_type"],
            size=int(found["size"]),
            sha256=bytes.fromhex(found["sha256"]),
        )

    return parse


def _text(is_right: Callable[[str], bool], code: str, message: str, value: object) -> Complaint:
    if type(value) is not str:
        return "wrong_type", "must be a string"
    return None if is_right(value) else (code, message)


def _content_type(types: frozenset[str], value: object) -> Complaint:
    complaint = _text(is_content_type, "invalid_type", TYPE_MESSAGE, value)
    if complaint is None and value not in types:
        return "type_not_allowed", f"must be one of {', '.join(sorted(types))}"
    return complaint


def _size(largest: int, value: object) -> Complaint:
    # 5.0 is a whole number in JSON Schema.
    if type(value) is not int and not (type(value) is float and value.is_integer()):
        return "wrong_type", "must be a whole number of bytes"
    if not 1 <= value <= largest:
        return "out_of_range", f"must be from 1 to {largest} bytes"
    return None
