"""What requests bring beside their bodies: ids in paths, media types, parameters that are none."""

import re
from uuid import UUID

from ticketd import validation
from ticketd.errors import FieldError, InvalidFieldsError, UnsupportedMediaTypeError
from ticketd.identifiers import uuid_of
from ticketd.messages import Request

IDENTIFIER = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
JSON = (b"application/json",)


def identifier(text: str, field: str) -> UUID:
    """Raises InvalidFieldsError."""
    if not IDENTIFIER.fullmatch(text):
        message = "must be a UUID, such as 019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10"
        raise InvalidFieldsError([FieldError(field=field, code="invalid_uuid", message=message)])
    return uuid_of(int(text.replace("-", ""), 16))


def refuse_parameters(request: Request) -> None:
    """Raises InvalidFieldsError."""
    if request.query_string:
        validation.parse_parameters(request.query_string, validation.NO_PARAMETERS)


def require_type(request: Request, accepted: tuple[bytes, ...]) -> None:
    """Raises UnsupportedMediaTypeError; the one parameter allowed is charset=utf-8."""
    given = request.headers.get(b"content-type", b"")
    if given in accepted:
        return
    media_type, _, parameters = given.lower().partition(b";")
    charset = parameters.strip().replace(b'"', b"")
    if media_type.strip() not in accepted or charset not in (b"", b"charset=utf-8"):
        choice = b", ".join(accepted).decode()
        raise UnsupportedMediaTypeError(given.decode("latin-1"), choice)
