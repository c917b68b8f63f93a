"""The routes for probes, Prometheus and tools."""

from collections.abc import Callable, Mapping

from servicedesk.admin import METRICS_CONTENT_TYPE, liveness_answer, readiness_answer
from ticketd.messages import NOSNIFF, NOT_STORED, HeaderBlock, Request, Response

JSON = HeaderBlock((b"content-type", b"application/json"), NOSNIFF, NOT_STORED)
TEXT = HeaderBlock((b"content-type", METRICS_CONTENT_TYPE.encode()), NOSNIFF, NOT_STORED)
YAML = HeaderBlock(
    (b"content-type", b"application/yaml"),
    NOSNIFF,
    (b"cache-control", b"public, max-age=300"),
)


class OperationHandlers:
    """`checks` names the dependencies, `exposition` is the Prometheus text, `contract` the
    OpenAPI file."""

    def __init__(
        self,
        *,
        checks: Callable[[], Mapping[str, str]],
        exposition: Callable[[], bytes],
        contract: bytes,
    ) -> None:
        self._checks = checks
        self._exposition = exposition
        self._contract = contract

    async def liveness(self, request: Request) -> Response:
        del request
        status, body = liveness_answer(alive=True)
        return Response(status, JSON, body)

    async def readiness(self, request: Request) -> Response:
        del request
        status, body = readiness_answer(self._checks())
        return Response(status, JSON, body)

    async def metrics(self, request: Request) -> Response:
        del request
        return Response(200, TEXT, self._exposition())

    async def openapi(self, request: Request) -> Response:
        del request
        return Response(200, YAML, self._contract)
