"""Several copies of ticketd behind what a Kubernetes service does: requests go to copies that say
they are ready, and a connection that is refused before anything was sent goes to another copy."""

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from tests.support.load import MERGE_PATCH, Load
from tests.support.processes import Daemon

CALLERS = 12
EVENTS = 10
LOOK_SECONDS = 0.05


@dataclass(slots=True)
class ServiceLoad:
    """Runs in a thread from `begin` to `finish`. `elsewhere` counts connections that were refused;
    everything else that goes wrong is a failed request."""

    copies: Sequence[Daemon]
    found: Load = field(default_factory=Load)
    elsewhere: int = 0
    slowest_seconds: float = 0.0
    _ready: list[Daemon] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def begin(self) -> "ServiceLoad":
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        return self

    def finish(self) -> Load:
        self._over.set()
        assert self._thread is not None
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.found

    async def _run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            watching = asyncio.create_task(self._watch(session))
            await asyncio.gather(*(self._call(session) for _ in range(CALLERS)))
            watching.cancel()

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        """What the endpoints controller does, without its delay."""
        while True:
            self._ready = [copy for copy in self.copies if await _is_ready(session, copy)]
            await asyncio.sleep(LOOK_SECONDS)

    async def _call(self, session: aiohttp.ClientSession) -> None:
        while not self._over.is_set():
            body = {"title": "Заявка", "requester": "нагрузка@example.org"}
            ticket = await self._send(session, "POST", "/tickets", body)
            for event in range(2, EVENTS + 1):
                if ticket is None:
                    break
                change = {"description": f"изменение {event}"}
                ticket = await self._send(session, "PATCH", f"/tickets/{ticket}", change)

    async def _send(
        self, session: aiohttp.ClientSession, method: str, path: str, body: dict[str, str]
    ) -> str | None:
        headers = MERGE_PATCH if method == "PATCH" else {}
        begun = time.monotonic()
        for copy in self._order():
            try:
                async with session.request(
                    method, copy.url + path, json=body, headers=headers
                ) as answer:
                    content = await answer.json(content_type=None)
            except aiohttp.ClientConnectorError:
                self.elsewhere += 1
                continue
            except (aiohttp.ClientError, TimeoutError):
                break
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - begun)
            if answer.status not in {200, 201}:
                self.found.refused.append(answer.status)
                return None
            self.found.accepted.append((content["id"], content["version"]))
            return str(content["id"])
        self.found.broken += 1
        return None

    def _order(self) -> list[Daemon]:
        """Ready ones first, in turn."""
        ready = random.sample(self._ready, len(self._ready))
        return ready + [copy for copy in self.copies if copy not in ready]


async def _is_ready(session: aiohttp.ClientSession, copy: Daemon) -> bool:
    try:
        async with session.get(f"{copy.admin_url}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False
