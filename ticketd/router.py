"""From a path and a method to a route: one dict look-up each."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ticketd.errors import MethodNotAllowedError, PathNotFoundError
from ticketd.messages import Request, Response
from ticketd.store import Work
from ticketd.tallies import RouteMetrics

Handler = Callable[[Request], Awaitable[Response]]

# Stand in a pattern for one path segment each, which becomes Request.path_id or Request.part_id.
PLACEHOLDER = "{id}"
PART_PLACEHOLDER = "{attachment_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`scope` is what the caller needs: a scope, "" for any token, None for no token at all.
    `work` is what it asks of the store; such routes are refused while the database is known to be
    away, or has more of that work than may wait."""

    method: str
    pattern: str
    handler: Handler
    scope: str | None
    work: Work | None
    metrics: RouteMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """The routes of one pattern by their methods, and what Allow says about them."""

    routes: dict[str, Route]
    allowed: str


class Router:
    """Patterns are exact paths, or have the placeholder as their second segment and perhaps the
    other one as their fourth."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._resources: dict[str, Resource] = {}
        for pattern in dict.fromkeys(route.pattern for route in routes):
            by_method = {route.method: route for route in routes if route.pattern == pattern}
            allowed = ", ".join(sorted(by_method))
            self._resources[pattern] = Resource(routes=by_method, allowed=allowed)

    def find(self, request: Request) -> Route:
        """The route of a request, whose `path_id` and `part_id` are set as the pattern has them.

        Raises PathNotFoundError and MethodNotAllowedError.
        """
        path = request.path
        resource = self._resources.get(path)
        if resource is None:
            resource = self._with_placeholder(request, path)
        route = resource.routes.get(request.method)
        if route is None:
            raise MethodNotAllowedError(request.method, resource.allowed)
        return route

    def _with_placeholder(self, request: Request, path: str) -> Resource:
        _, _, rest = path.partition("/")
        head, _, rest = rest.partition("/")
        identifier, slash, tail = rest.partition("/")
        resource = self._resources.get(f"/{head}/{PLACEHOLDER}{slash}{tail}")
        if resource is None and slash:
            resource = self._with_part(request, f"/{head}/{PLACEHOLDER}/", tail)
        if resource is None or not identifier:
            raise PathNotFoundError
        request.path_id = identifier
        return resource

    def _with_part(self, request: Request, start: str, tail: str) -> Resource | None:
        collection, _, rest = tail.partition("/")
        part, slash, end = rest.partition("/")
        request.part_id = part
        pattern = f"{start}{collection}/{PART_PLACEHOLDER}{slash}{end}"
        return self._resources.get(pattern) if part else None
