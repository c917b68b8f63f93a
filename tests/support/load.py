"""A bounded load on ticketd over keep-alive connections: tickets created, then patched in turn."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from tests.support.checker import Accepted

MERGE_PATCH = {"Content-Type": "application/merge-patch+json", "If-Match": "*"}


@dataclass(slots=True)
class Load:
    """What the API answered. `accepted` are (ticket id, version) of every 201 and 200 that made a
    new version; `refused` the other statuses; `broken` counts connections that ended unanswered."""

    accepted: list[Accepted] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    broken: int = 0


class Pace:
    """Turns come `rate` times a second, as soon as they are asked for where that is None; none
    comes once there is `enough`."""

    def __init__(self, rate: float | None, enough: Callable[[], bool]) -> None:
        self._gap_seconds = 1.0 / rate if rate else 0.0
        self._enough = enough
        self._at = 0.0

    async def turn(self) -> bool:
        now = asyncio.get_running_loop().time()
        # What is late is not made up for: the rate is an upper bound.
        self._at = max(now, self._at + self._gap_seconds)
        if self._at > now:
            await asyncio.sleep(self._at - now)
        return not self._enough()


async def run_load(
    url: str,
    *,
    tickets: int,
    events: int,
    callers: int = 16,
    rate: float | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> Load:
    """Create `tickets` tickets with `events` events each: one creation, then patches; at most
    `rate` a second, and none more once there is `enough`.

    A ticket whose request is refused or broken gets no further ones.
    """
    load = Load()
    pace = Pace(rate, enough)
    remaining = iter(range(tickets))
    async with aiohttp.ClientSession(url) as session:

        async def call() -> None:
            for number in remaining:
                if not await pace.turn():
                    return
                await _one_ticket(session, load, pace, number, events)

        await asyncio.gather(*(call() for _ in range(callers)))
    return load


async def _one_ticket(
    session: aiohttp.ClientSession, load: Load, pace: Pace, number: int, events: int
) -> None:
    body = {"title": f"Заявка № {number}", "requester": "нагрузка@example.org"}
    ticket = await _send(session, load, "POST", "/tickets", body)
    for event in range(2, events + 1):
        if ticket is None or not await pace.turn():
            return
        change = {"description": f"изменение {event}"}
        ticket = await _send(session, load, "PATCH", f"/tickets/{ticket}", change)


async def _send(
    session: aiohttp.ClientSession,
    load: Load,
    method: str,
    path: str,
    body: dict[str, str],
) -> str | None:
    headers = MERGE_PATCH if method == "PATCH" else {}
    try:
        async with session.request(method, path, json=body, headers=headers) as answer:
            content = await answer.json(content_type=None)
            if answer.status not in {200, 201}:
                load.refused.append(answer.status)
                return None
    except (aiohttp.ClientError, TimeoutError):
        load.broken += 1
        return None
    load.accepted.append((content["id"], content["version"]))
    return str(content["id"])
