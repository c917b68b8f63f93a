"""Expected failures; what each of them answers is in answers.py.

An error carries what the client may read; nothing of SQL, paths or tracebacks gets in here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One wrong member, parameter or header; `code` is stable, `message` is for people."""

    field: str
    code: str
    message: str


class RequestError(Exception):
    """A request that fails for a reason the client may know; the text is the problem's detail."""

    errors: Sequence[FieldError] = ()
    headers: Sequence[Header] = ()


class MalformedRequestError(RequestError):
    """What came is no HTTP request; the text says what is wrong with it."""


class MalformedBodyError(RequestError):
    """The body is not one JSON object, or it ended early."""


class InvalidFieldsError(RequestError):
    """Members, parameters or headers are wrong; `errors` names every one of them."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__(
            "1 field is wrong" if len(errors) == 1 else f"{len(errors)} fields are wrong"
        )
        self.errors = errors


class UnauthenticatedError(RequestError):
    """No valid token. Source of the header: RFC 6750, 3."""

    def __init__(self, detail: str, *, token_was_sent: bool) -> None:
        super().__init__(detail)
        challenge = b'Bearer realm="tickets"'
        if token_was_sent:
            challenge += b', error="invalid_token"'
        self.headers = ((b"www-authenticate", challenge),)


class ForbiddenError(RequestError):
    """The token is valid and lacks the scope. Source of the header: RFC 6750, 3."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"The token has no scope {scope}")
        challenge = f'Bearer realm="tickets", error="insufficient_scope", scope="{scope}"'
        self.headers = ((b"www-authenticate", challenge.encode()),)


class PathNotFoundError(RequestError):
    """No route has this path."""

    def __init__(self) -> None:
        super().__init__("There is nothing at this path")


class TicketNotFoundError(RequestError):
    """No ticket has this id."""

    def __init__(self, ticket_id: UUID) -> None:
        super().__init__(f"There is no ticket {ticket_id}")


class AttachmentNotFoundError(RequestError):
    """The ticket has no such attachment, or not yet, or not any more."""

    def __init__(self, attachment_id: UUID) -> None:
        super().__init__(f"The ticket has no attachment {attachment_id}")


class TooManyAttachmentsError(RequestError):
    """The ticket has as many attachments as it may, those being uploaded included."""

    def __init__(self, most: int) -> None:
        super().__init__(f"A ticket may have {most} attachments; remove one first")


class UploadExpiredError(RequestError):
    """The upload that was announced with this Idempotency-Key is over, or its attachment gone."""

    def __init__(self) -> None:
        super().__init__(
            "The upload that was announced with this Idempotency-Key is over; announce the file "
            "again with a new key"
        )


class AlreadyAttachedError(RequestError):
    """The upload that was announced with this Idempotency-Key is over, and was completed."""

    def __init__(self, attachment_id: UUID) -> None:
        super().__init__(
            "The file that was announced with this Idempotency-Key is attached as "
            f"{attachment_id}; nothing is left to do"
        )


class UploadMissingError(RequestError):
    """Nothing has been uploaded that could be completed."""

    def __init__(self) -> None:
        super().__init__("Nothing has been uploaded yet; send the file to the upload's URL first")


class UploadMismatchError(RequestError):
    """What was uploaded is not what was announced."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"{detail}; upload the announced file, or announce this one anew")


class AttachmentsDisabledError(RequestError):
    """This ticketd has no S3 store."""

    def __init__(self) -> None:
        super().__init__("This server keeps no attachments: S3_BUCKET is not set")


class StorageUnavailableError(RequestError):
    """The S3 store is away, or too slow. The reason is for operators."""

    def __init__(self, detail: str = "The store of attachments cannot be reached") -> None:
        super().__init__(f"{detail}; try again after Retry-After")


class MethodNotAllowedError(RequestError):
    """The path is served, this method on it is not."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method[:40]} is not offered here; this path takes {allowed}")
        self.headers = ((b"allow", allowed.encode()),)


class BodyTimeoutError(RequestError):
    """The body did not arrive within TICKETD_REQUEST_TIMEOUT."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The body did not arrive within {seconds:g} s")


class TransitionForbiddenError(RequestError):
    """The life cycle does not allow the change of status."""

    def __init__(self, current: str, allowed: Sequence[str]) -> None:
        choice = ", ".join(allowed)
        super().__init__(f"A ticket in status {current} may become: {choice}")
        message = f"{current} may become: {choice}"
        self.errors = (FieldError(field="status", code="transition_forbidden", message=message),)


class StaleVersionError(RequestError):
    """If-Match names versions that the ticket does not have."""

    def __init__(self, current: int) -> None:
        super().__init__(f"The ticket is at version {current}; read it again, repeat the change")


class BodyTooLargeError(RequestError):
    """The body is larger than the limit; not all of it was read."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The body is larger than {limit_bytes} bytes")


class UnsupportedMediaTypeError(RequestError):
    """The Content-Type is not one that this request reads."""

    def __init__(self, content_type: str, accepted: str) -> None:
        found = (
            f"Content-Type is {content_type[:100]}" if content_type else "Content-Type is not set"
        )
        super().__init__(f"{found}; this request takes {accepted}")
        self.headers = ((b"accept", accepted.encode()),)


class IdempotencyKeyReusedError(RequestError):
    """The Idempotency-Key belongs to a request that said something else."""

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was sent with another request; send a new one for a new request"
        )


class PreconditionRequiredError(RequestError):
    """A change must say which version it was made against."""

    def __init__(self) -> None:
        super().__init__("Send the ETag that the change was made against as If-Match, or *")


class HeadersTooLargeError(RequestError):
    """Names and values of the headers together are over the limit; the longest one is named.
    Source: RFC 6585, 5."""

    def __init__(self, limit_bytes: int, longest: str, length: int) -> None:
        super().__init__(f"The headers are larger than {limit_bytes} bytes")
        message = f"has {length} bytes, all headers together may have {limit_bytes}"
        self.errors = (FieldError(field=longest[:100], code="too_long", message=message),)


class QuotaExceededError(RequestError):
    """The caller has sent more requests than its quota. `headers` say where it stands.
    Source: RFC 6585, 4."""

    def __init__(self, count: int, wait_seconds: int, headers: Sequence[Header]) -> None:
        super().__init__(f"The quota of {count} requests is used up; try again after Retry-After")
        self.headers = (*headers, (b"retry-after", b"%d" % wait_seconds))


class OverloadedError(RequestError):
    """More work waits than may wait; nothing was begun."""

    def __init__(self) -> None:
        super().__init__("Too many requests are waiting; try again after Retry-After")


class DatabaseUnavailableError(RequestError):
    """The database is away, or too slow, or its schema is older than this code."""

    def __init__(self, detail: str = "The database cannot be reached") -> None:
        super().__init__(f"{detail}; try again after Retry-After")
