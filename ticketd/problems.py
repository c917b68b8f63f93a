"""Errors as RFC 9457 problem details."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from urllib.parse import quote

import orjson

from ticketd.answers import ANSWERS, INTERNAL_ERROR, Answer
from ticketd.errors import FieldError, RequestError
from ticketd.messages import NOSNIFF, NOT_STORED, HeaderBlock, Request, Response

PROBLEM = HeaderBlock((b"content-type", b"application/problem+json"), NOSNIFF, NOT_STORED)
# Clients that were refused together must not come back together.
RETRY_SECONDS = (1, 4)


def problem(error: RequestError, request: Request, random: Callable[[], float]) -> Response:
    """The answer of an expected failure. `random` is uniform in [0, 1) and spreads Retry-After."""
    answer = ANSWERS[type(error)]
    headers = list(error.headers)
    if answer.status == 503:
        low, high = RETRY_SECONDS
        headers.append((b"retry-after", b"%d" % (low + int(random() * (high - low + 1)))))
    body = _body(answer, str(error), request, error.errors)
    return Response(answer.status, PROBLEM, body, HeaderBlock(*headers))


def internal_error(request: Request) -> Response:
    """The answer of a defect; the log has the traceback under the same request id."""
    detail = "The request failed; tell the operators the request id"
    body = _body(INTERNAL_ERROR, detail, request, ())
    return Response(500, PROBLEM, body)


def _body(answer: Answer, detail: str, request: Request, errors: Sequence[FieldError]) -> bytes:
    content: dict[str, object] = {
        "type": f"/problems/{answer.code}",
        "title": answer.title,
        "status": answer.status,
        "detail": detail,
        "instance": quote(request.path[:2000], errors="replace"),
        "code": answer.code,
        "request_id": request.request_id,
    }
    if errors:
        content["errors"] = [asdict(error) for error in errors]
    return orjson.dumps(content)
