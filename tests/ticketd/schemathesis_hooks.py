"""What schemathesis needs to be told so that the cases it takes for valid ones are valid.

Cases that are meant to be invalid are left as they are.
"""

import hashlib
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.generation import GenerationMode

ANNOUNCE = "POST /tickets/{id}/attachments"
CONTENT = b"what every announced file has in it"


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    del context, kwargs
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    # The contract cannot say that a cursor is only valid when the server has made it.
    if case.operation.label == "GET /tickets":
        case.query.pop("cursor", None)
    # Its coverage phase fills headers whose pattern asks for quotes with 0, against the pattern.
    if case.headers.get("If-Match") == "0":
        case.headers["If-Match"] = "*"
    # Nor which types this server takes; and what is announced is uploaded below.
    if case.operation.label == ANNOUNCE and isinstance(case.body, dict):
        digest = hashlib.sha256(CONTENT).hexdigest()
        case.body |= {"content_type": "image/png", "size": len(CONTENT), "sha256": digest}


@schemathesis.hook
def after_call(context: HookContext, case: Case[Any], response: Response) -> None:
    """Between two calls of the API a client uploads to S3."""
    del context
    if case.operation.label == ANNOUNCE and response.status_code == 201:
        upload = response.json()["upload"]
        request = Request(upload["url"], CONTENT, upload["headers"], method=upload["method"])  # noqa: S310
        with suppress(HTTPError):  # something else was announced
            urlopen(request, timeout=10).close()  # noqa: S310 - a loopback URL
