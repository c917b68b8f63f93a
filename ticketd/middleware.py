"""What happens around every request, in one function: correlation, limits, routing, who may
call, the time limit, errors, metrics and the access line.

Every request that was read is answered once, with a problem if need be.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from servicedesk.correlation import continue_trace, sane_request_id
from servicedesk.logs import Log
from ticketd.access_log import AccessLog
from ticketd.asgi import Receive, Request, Response, Scope, Send, Service, run_lifespan
from ticketd.deadlines import Deadlines
from ticketd.errors import (
    ANSWERS,
    BodyTimeoutError,
    DatabaseUnavailableError,
    ForbiddenError,
    HeadersTooLargeError,
    RequestError,
)
from ticketd.metrics import METHODS, OTHER_METHOD, Metrics
from ticketd.problems import internal_error, problem
from ticketd.readiness import Readiness
from ticketd.router import Route, Router
from ticketd.tokens import Caller

HEADERS_LIMIT_BYTES = 16 * 1024
UNMATCHED = "unmatched"


class Pipeline:
    """The ASGI application. `authenticate` turns an Authorization header into a caller or raises
    UnauthenticatedError; without it everybody may do everything."""

    def __init__(
        self,
        *,
        service: Service,
        router: Router,
        authenticate: Callable[[bytes | None], Caller] | None,
        readiness: Readiness,
        deadlines: Deadlines,
        metrics: Metrics,
        access_log: AccessLog | None,
        log: Log,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        random: Callable[[], float],
    ) -> None:
        self._service = service
        self._router = router
        self._authenticate = authenticate
        self._readiness = readiness
        self._deadlines = deadlines
        self._metrics = metrics
        self._unmatched = {method: metrics.route(method, UNMATCHED) for method in METHODS}
        self._access_log = access_log
        self._log = log
        self._clock = clock
        self._wall_clock = wall_clock
        self._random_bytes = random_bytes
        self._random = random

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await run_lifespan(receive, send, self._service, self._report_failed_start)
            return
        started = self._clock()
        request = Request(scope, receive)
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # servers run requests in tasks
        route: Route | None = None
        self._deadlines.enter(task, started, request)
        try:
            self._correlate(request)
            route = self._router.find(request)
            self._admit(request, route)
            response = await route.handler(request)
        except RequestError as error:
            response = self._refuse(error, request)
        except asyncio.CancelledError:
            if not request.timed_out:
                raise
            while task.uncancel():
                """It may have been cancelled more than once."""
            response = self._refuse(self._time_out(request), request)
        except Exception as error:
            response = self._fail(error, request)
        finally:
            self._deadlines.leave(task)
        self._record(request, route, response, self._clock() - started)
        await self._send(request, response, send)

    def _correlate(self, request: Request) -> None:
        headers = request.headers
        given = headers.get(b"x-request-id")
        found = None if given is None else sane_request_id(given.decode("latin-1"))
        request.request_id = found or self._random_bytes(16).hex()
        parent = headers.get(b"traceparent")
        request.traceparent = continue_trace(
            None if parent is None else parent.decode("latin-1"), self._random_bytes
        )
        if sum(map(len, headers)) + sum(map(len, headers.values())) > HEADERS_LIMIT_BYTES:
            name, value = max(headers.items(), key=lambda header: len(header[0]) + len(header[1]))
            raise HeadersTooLargeError(HEADERS_LIMIT_BYTES, name.decode("latin-1"), len(value))

    def _admit(self, request: Request, route: Route) -> None:
        scope = route.scope
        if scope is not None and self._authenticate is not None:
            request.caller = self._authenticate(request.headers.get(b"authorization"))
            if scope and scope not in request.caller.scopes:
                raise ForbiddenError(scope)
        if route.needs_database and not self._readiness.database_is_ready:
            raise DatabaseUnavailableError

    def _time_out(self, request: Request) -> RequestError:
        seconds = self._deadlines.seconds
        if request.reading_body:
            return BodyTimeoutError(seconds)
        return DatabaseUnavailableError(
            f"The database did not answer within {seconds:g} s; a change may have been made"
        )

    def _refuse(self, error: RequestError, request: Request) -> Response:
        answer = ANSWERS[type(error)]
        if answer.refused:
            self._metrics.refused.labels(answer.code).inc()
        return problem(error, request, self._random)

    def _fail(self, error: Exception, request: Request) -> Response:
        self._log.error(
            "request_failed",
            error=error,
            method=request.method,
            path=request.path,
            request_id=request.request_id,
        )
        return internal_error(request)

    def _record(
        self, request: Request, route: Route | None, response: Response, seconds: float
    ) -> None:
        if route is None:
            method = request.method if request.method in self._unmatched else OTHER_METHOD
            metrics, pattern = self._unmatched[method], UNMATCHED
        else:
            metrics, pattern = route.metrics, route.pattern
        metrics.observe(response.status, seconds)
        if self._access_log is not None:
            self._access_log.add(
                (
                    self._wall_clock(),
                    request.method,
                    pattern,
                    response.status,
                    seconds,
                    request.request_id,
                    request.traceparent,
                    request.caller.name,
                    len(response.body),
                )
            )

    async def _send(self, request: Request, response: Response, send: Send) -> None:
        body = response.body
        headers = [*response.headers, (b"x-request-id", request.request_id.encode())]
        if response.status != 304:
            headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if request.method == "HEAD":
            body = b""
        await send({"type": "http.response.body", "body": body})

    def _report_failed_start(self, error: BaseException) -> None:
        self._log.error("start_failed", error=error)
