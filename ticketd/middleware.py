"""What happens around every request, in one function: correlation, limits, routing, who may
call, errors, metrics and the access line.

Every request that was read is answered once, with a problem if need be.
"""

import asyncio
from collections.abc import Callable

from servicedesk.correlation import continue_trace, sane_request_id
from servicedesk.logs import Log
from ticketd.access_log import AccessLog
from ticketd.answers import ANSWERS
from ticketd.errors import (
    BodyTimeoutError,
    DatabaseUnavailableError,
    ForbiddenError,
    HeadersTooLargeError,
    OverloadedError,
    RequestError,
)
from ticketd.messages import Request, Response
from ticketd.metrics import METHODS, OTHER_METHOD, Metrics
from ticketd.problems import internal_error, problem
from ticketd.quotas import Quotas, Standing
from ticketd.readiness import Readiness
from ticketd.router import Route, Router
from ticketd.store import Work
from ticketd.tokens import ANYONE, Caller

HEADERS_LIMIT_BYTES = 16 * 1024
UNMATCHED = "unmatched"


class Pipeline:
    """From a request to its response, whichever server brings the one and takes the other.

    `authenticate` turns an Authorization header into a caller or raises UnauthenticatedError;
    without it everybody may do everything. Whoever calls `answer` ends it after
    `request_seconds`.
    """

    def __init__(
        self,
        *,
        router: Router,
        authenticate: Callable[[bytes | None], Caller] | None,
        readiness: Readiness,
        has_room: Callable[[Work], bool],
        request_seconds: float,
        metrics: Metrics,
        access_log: AccessLog | None,
        log: Log,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        random: Callable[[], float],
        quotas: Quotas | None = None,
    ) -> None:
        self._quotas = quotas
        self.request_seconds = request_seconds
        self._router = router
        self._authenticate = authenticate
        self._readiness = readiness
        self._has_room = has_room
        self._metrics = metrics
        self._unmatched = {method: metrics.route(method, UNMATCHED) for method in METHODS}
        self._access_log = access_log
        self._log = log
        self._clock = clock
        self._wall_clock = wall_clock
        self._random_bytes = random_bytes
        self._random = random

    async def answer(self, request: Request) -> Response:
        """Raises nothing of its own. A RequestError that is raised where it waits becomes the
        answer, and so does a cancellation of a request that is `timed_out`."""
        started = self._clock()
        route: Route | None = None
        standing: Standing | None = None
        try:
            self._correlate(request)
            route = self._router.find(request)
            self._admit(request, route)
            if self._quotas is not None and route.work is not None:
                standing = await self._count(self._quotas, request)
            response = await route.handler(request)
        except RequestError as error:
            response = self._refuse(error, request)
        except asyncio.CancelledError:
            if not request.timed_out:
                raise
            response = self._refuse(self.overdue(request), request)
        except Exception as error:
            response = self._fail(error, request)
        if standing is not None:
            response = standing.added_to(response)
        self._record(request, route, response, self._clock() - started)
        return response

    async def _count(self, quotas: Quotas, request: Request) -> Standing:
        """Raises QuotaExceededError."""
        caller = request.caller
        name = (
            b"address " + request.client if caller is ANYONE else b"token " + caller.name.encode()
        )
        asked = quotas.ask(name)
        return quotas.decide(name, None if asked is None else await asked)

    def overdue(self, request: Request) -> RequestError:
        """What to raise where a request waits for longer than it may."""
        seconds = self.request_seconds
        if request.reading_body:
            return BodyTimeoutError(seconds)
        return DatabaseUnavailableError(
            f"The database did not answer within {seconds:g} s; a change may have been made"
        )

    def refuse_unread(self, error: RequestError, request: Request) -> Response:
        """The answer to what could not be read as a request."""
        self._correlate_anew(request)
        response = self._refuse(error, request)
        self._record(request, None, response, 0.0)
        return response

    def report_working(self, count: int) -> None:
        """How many requests are under way."""
        self._metrics.in_flight.set(count)

    def count_refused_connection(self) -> None:
        """More clients than TICKETD_CONNECTION_LIMIT: one was turned away unheard."""
        self._metrics.refused.labels("too_many_connections").inc()

    def count_abandoned(self) -> None:
        """A client went away before its answer."""
        self._metrics.abandoned.inc()

    def _correlate(self, request: Request) -> None:
        headers = request.headers
        given = headers.get(b"x-request-id")
        parent = headers.get(b"traceparent")
        if given is None and parent is None:
            self._correlate_anew(request)
        else:
            found = None if given is None else sane_request_id(given.decode("latin-1"))
            request.request_id = found or self._random_bytes(16).hex()
            request.traceparent = continue_trace(
                None if parent is None else parent.decode("latin-1"), self._random_bytes
            )
        if request.headers_bytes > HEADERS_LIMIT_BYTES:
            name, value = max(headers.items(), key=lambda header: len(header[0]) + len(header[1]))
            raise HeadersTooLargeError(HEADERS_LIMIT_BYTES, name.decode("latin-1"), len(value))

    def _correlate_anew(self, request: Request) -> None:
        """A new trace, whose id is the request's as well."""
        digits = self._random_bytes(24).hex()
        request.request_id = digits[:32]
        request.traceparent = f"00-{digits[:32]}-{digits[32:]}-00"

    def _admit(self, request: Request, route: Route) -> None:
        work = route.work
        if work is not None:
            if not self._readiness.database_is_ready:
                raise DatabaseUnavailableError
            if not self._has_room(work):
                raise OverloadedError
        scope = route.scope
        if scope is not None and self._authenticate is not None:
            request.caller = self._authenticate(request.headers.get(b"authorization"))
            if scope and scope not in request.caller.scopes:
                raise ForbiddenError(scope)

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
