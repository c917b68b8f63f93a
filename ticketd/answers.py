"""The one table that says what each expected failure answers."""

from dataclasses import dataclass

from ticketd.errors import (
    AlreadyAttachedError,
    AttachmentNotFoundError,
    AttachmentsDisabledError,
    BodyTimeoutError,
    BodyTooLargeError,
    DatabaseUnavailableError,
    ForbiddenError,
    HeadersTooLargeError,
    IdempotencyKeyReusedError,
    InvalidFieldsError,
    MalformedBodyError,
    MalformedRequestError,
    MethodNotAllowedError,
    OverloadedError,
    PathNotFoundError,
    PreconditionRequiredError,
    QuotaExceededError,
    RequestError,
    StaleVersionError,
    StorageUnavailableError,
    TicketNotFoundError,
    TooManyAttachmentsError,
    TransitionForbiddenError,
    UnauthenticatedError,
    UnsupportedMediaTypeError,
    UploadExpiredError,
    UploadMismatchError,
    UploadMissingError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an error answers. `refused` names it in ticketd_requests_refused_total; those are
    the answers that carry Retry-After or protect the server."""

    status: int
    code: str
    title: str
    refused: bool = False


INTERNAL_ERROR = Answer(status=500, code="internal_error", title="Internal error")

ANSWERS: dict[type[RequestError], Answer] = {
    MalformedRequestError: Answer(status=400, code="malformed_request", title="Malformed request"),
    MalformedBodyError: Answer(status=400, code="malformed_json", title="Malformed JSON"),
    InvalidFieldsError: Answer(status=400, code="validation_failed", title="Invalid request"),
    UnauthenticatedError: Answer(status=401, code="unauthenticated", title="Unauthenticated"),
    ForbiddenError: Answer(status=403, code="forbidden", title="Forbidden"),
    PathNotFoundError: Answer(status=404, code="not_found", title="Not found"),
    TicketNotFoundError: Answer(status=404, code="not_found", title="Not found"),
    AttachmentNotFoundError: Answer(status=404, code="not_found", title="Not found"),
    MethodNotAllowedError: Answer(
        status=405, code="method_not_allowed", title="Method not allowed"
    ),
    BodyTimeoutError: Answer(
        status=408, code="request_timeout", title="Request timeout", refused=True
    ),
    TransitionForbiddenError: Answer(
        status=409, code="transition_forbidden", title="Transition forbidden"
    ),
    TooManyAttachmentsError: Answer(
        status=409, code="too_many_attachments", title="Too many attachments"
    ),
    UploadExpiredError: Answer(status=409, code="upload_expired", title="Upload expired"),
    AlreadyAttachedError: Answer(status=409, code="already_attached", title="Already attached"),
    UploadMissingError: Answer(status=409, code="upload_missing", title="Upload missing"),
    UploadMismatchError: Answer(status=409, code="upload_mismatch", title="Upload mismatch"),
    StaleVersionError: Answer(status=412, code="version_mismatch", title="Version mismatch"),
    BodyTooLargeError: Answer(
        status=413, code="body_too_large", title="Body too large", refused=True
    ),
    UnsupportedMediaTypeError: Answer(
        status=415, code="unsupported_media_type", title="Unsupported media type"
    ),
    IdempotencyKeyReusedError: Answer(
        status=422, code="idempotency_key_reused", title="Idempotency-Key reused"
    ),
    PreconditionRequiredError: Answer(
        status=428, code="if_match_required", title="If-Match required"
    ),
    QuotaExceededError: Answer(
        status=429, code="quota_exceeded", title="Quota exceeded", refused=True
    ),
    HeadersTooLargeError: Answer(
        status=431, code="headers_too_large", title="Headers too large", refused=True
    ),
    AttachmentsDisabledError: Answer(
        status=501, code="attachments_disabled", title="Attachments disabled"
    ),
    StorageUnavailableError: Answer(
        status=503, code="storage_unavailable", title="Storage unavailable", refused=True
    ),
    OverloadedError: Answer(status=503, code="overloaded", title="Overloaded", refused=True),
    DatabaseUnavailableError: Answer(
        status=503, code="database_unavailable", title="Database unavailable", refused=True
    ),
}
