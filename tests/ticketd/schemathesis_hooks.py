"""What schemathesis needs to be told so that the cases it takes for valid ones are valid.

Cases that are meant to be invalid are left as they are.
"""

from typing import Any

import schemathesis
from schemathesis import Case, HookContext
from schemathesis.generation import GenerationMode


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
