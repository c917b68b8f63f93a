"""From bytes to commands: JSON bodies and query strings are checked whole, every wrong member at
once, before anything else happens.

JSON is strict (orjson): NaN, lone surrogates and invalid UTF-8 are malformed. Of members with the
same name the last one counts, as RFC 8259, 4 leaves it.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

import orjson

from ticketd import tickets
from ticketd.errors import FieldError, InvalidFieldsError, MalformedBodyError
from ticketd.tickets import NewTicket

# A check answers a code and a message, or None when the value is right.
Complaint = tuple[str, str] | None
Check = Callable[[object], Complaint]

# RFC 3339, 5.6. A space before the offset is the + of a query string that was not escaped.
MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,12})?(?:[Zz]|[+\- ]\d\d:\d\d)", re.ASCII
)
LIMIT = re.compile(r"[1-9]\d{0,2}", re.ASCII)
DEFAULT_LIMIT = 50
MAXIMUM_LIMIT = 200
MAXIMUM_PARAMETERS = 50
# Of a body: naming each of the 40,000 wrong ones that fit into it would hold up everybody else.
MAXIMUM_MEMBERS = 50


def text(minimum: int, maximum: int) -> Check:
    """A check for a string of so many characters (code points) without NUL."""

    def check(value: object) -> Complaint:
        if type(value) is not str:
            return "wrong_type", "must be a string"
        if len(value) > maximum:
            return "too_long", f"has {len(value)} characters, at most {maximum} are allowed"
        if len(value) < minimum:
            return "too_short", f"has {len(value)} characters, at least {minimum} is needed"
        if "\x00" in value:
            return "nul_character", "holds a NUL character"
        return None

    return check


def one_of(choices: tuple[str, ...]) -> Check:
    message = f"must be one of {', '.join(choices)}"

    def check(value: object) -> Complaint:
        if type(value) is not str:
            return "wrong_type", message
        return None if value in choices else ("unknown_value", message)

    return check


def or_null(check: Check) -> Check:
    def check_or_null(value: object) -> Complaint:
        return None if value is None else check(value)

    return check_or_null


_PERSON = text(1, tickets.PERSON_CHARACTERS)
_TITLE = text(1, tickets.TITLE_CHARACTERS)
_DESCRIPTION = text(0, tickets.DESCRIPTION_CHARACTERS)
_STATUS = one_of(tickets.STATUSES)
_PRIORITY = one_of(tickets.PRIORITIES)

NEW_TICKET: Mapping[str, Check] = {
    "title": _TITLE,
    "description": _DESCRIPTION,
    "priority": _PRIORITY,
    "requester": _PERSON,
    "assignee": or_null(_PERSON),
}
PATCH: Mapping[str, Check] = {
    "title": _TITLE,
    "description": _DESCRIPTION,
    "priority": _PRIORITY,
    "assignee": or_null(_PERSON),
    "status": _STATUS,
}
CLOSING: Mapping[str, Check] = {"reason": text(1, tickets.REASON_CHARACTERS)}


def parse_new_ticket(body: bytes) -> NewTicket:
    """Raises MalformedBodyError and InvalidFieldsError, as the two below do."""
    found = checked(body, NEW_TICKET, required=("title", "requester"))
    return NewTicket(
        title=found["title"],
        description=found.get("description", ""),
        priority=found.get("priority", "normal"),
        requester=found["requester"],
        assignee=found.get("assignee"),
    )


def parse_patch(body: bytes) -> dict[str, Any]:
    """The members of a merge patch (RFC 7396), at least one. Only `assignee` can be removed."""
    found = checked(body, PATCH)
    if not found:
        message = f"is empty; a patch has one of {', '.join(PATCH)}"
        raise InvalidFieldsError([FieldError(field="body", code="required", message=message)])
    return found


def parse_closing(body: bytes) -> str | None:
    """The reason, or None. The body may be left out."""
    reason: str | None = checked(body, CLOSING).get("reason") if body else None
    return reason


def checked(
    body: bytes, checks: Mapping[str, Check], required: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The members of a body, each known and right, and those that are required.

    Raises MalformedBodyError and InvalidFieldsError.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBodyError(f"The body is not JSON: {error}") from None
    if type(found) is not dict:
        raise MalformedBodyError("The body is JSON, but not an object")
    if len(found) > MAXIMUM_MEMBERS:
        message = f"has {len(found)} members, over {MAXIMUM_MEMBERS} are not looked at"
        raise InvalidFieldsError(
            [FieldError(field="body", code="too_many_members", message=message)]
        )
    errors = [_missing(name) for name in required if name not in found]
    for name, value in found.items():
        check = checks.get(name)
        complaint = _UNKNOWN_MEMBER if check is None else check(value)
        if complaint is not None:
            errors.append(_field_error(name, complaint))
    if errors:
        raise InvalidFieldsError(errors)
    return found


_UNKNOWN_MEMBER = ("unknown_field", "is not a member of this body")


def _missing(name: str) -> FieldError:
    return FieldError(field=name, code="required", message="is missing")


def _field_error(name: str, complaint: tuple[str, str]) -> FieldError:
    return FieldError(field=name[:100], code=complaint[0], message=complaint[1])


def _moment(value: object) -> Complaint:
    return None if parse_moment(str(value)) else ("invalid_time", _MOMENT_MESSAGE)


_MOMENT_MESSAGE = "must be a time as RFC 3339 writes it, such as 2026-01-15T08:00:00Z"


def parse_moment(value: str) -> datetime | None:
    """The moment of an RFC 3339 text, None when it is not one."""
    if not MOMENT.fullmatch(value):
        return None
    try:
        return datetime.fromisoformat(value.upper().replace(" ", "+"))
    except ValueError:
        return None


def _limit(value: object) -> Complaint:
    if LIMIT.fullmatch(str(value)) and int(str(value)) <= MAXIMUM_LIMIT:
        return None
    return "out_of_range", f"must be a whole number from 1 to {MAXIMUM_LIMIT}"


# The cursor is checked where it is opened, with the filters at hand.
LIST_PARAMETERS: Mapping[str, Check] = {
    "status": _STATUS,
    "priority": _PRIORITY,
    "assignee": _PERSON,
    "created_after": _moment,
    "created_before": _moment,
    "limit": _limit,
    "cursor": text(1, 200),
}
NO_PARAMETERS: Mapping[str, Check] = {}


def parse_parameters(query_string: bytes, checks: Mapping[str, Check]) -> dict[str, str]:
    """The parameters of a query string, each known, right and given once.

    Raises InvalidFieldsError.
    """
    if not query_string:
        return {}
    found: dict[str, str] = {}
    errors = []
    for name, value in _pairs(query_string):
        check = checks.get(name)
        if check is None:
            complaint: Complaint = ("unknown_parameter", "is not a parameter of this request")
        elif name in found:
            complaint = ("repeated_parameter", "is given more than once")
        else:
            complaint = check(value)
        if complaint is not None:
            errors.append(_field_error(name, complaint))
        found[name] = value
    if errors:
        raise InvalidFieldsError(errors)
    return found


def _pairs(query_string: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            query_string.decode(),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAXIMUM_PARAMETERS,
        )
    except ValueError:
        message = f"is not UTF-8 in percent-encoding, or has over {MAXIMUM_PARAMETERS} parameters"
        error = FieldError(field="query", code="malformed_query", message=message)
        raise InvalidFieldsError([error]) from None
