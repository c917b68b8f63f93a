"""A publisher on a cluster, for tests of what becomes of its rows."""

import asyncio
import io
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from relayd.notices import Notices
from relayd.producer import ProducerSettings
from relayd.publisher import Publisher
from servicedesk.logs import Log
from servicedesk.queue.row import Outcome, QueuedRow

BEGUN_AT = 1_735_787_045.25


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoilableSettings(ProducerSettings):
    """Settings that librdkafka refuses as soon as a name in `unknown` is none of its own."""

    unknown: list[str] = field(default_factory=list)

    def librdkafka(self) -> dict[str, str | int | float | bool]:
        return ProducerSettings.librdkafka(self) | dict.fromkeys(self.unknown, "any")


class Bench:
    """A publisher on a cluster, the rows given to it and what became of them."""

    def __init__(self, publisher: Publisher, log: io.StringIO) -> None:
        self.publisher = publisher
        self.log = log
        self.outcomes: list[tuple[QueuedRow, Outcome]] = []

    def settle(self, row: QueuedRow, outcome: Outcome) -> None:
        self.outcomes.append((row, outcome))

    async def send(self, *rows: QueuedRow) -> list[Outcome]:
        """The outcomes in the order of `rows`."""
        before = len(self.outcomes)
        for row in rows:
            self.publisher.send(row, self.settle, BEGUN_AT)
        await self.settled(before + len(rows))
        found = {row.id: outcome for row, outcome in self.outcomes[before:]}
        return [found[row.id] for row in rows]

    async def settled(self, count: int) -> None:
        deadline = time.monotonic() + 15
        while len(self.outcomes) < count:
            assert time.monotonic() < deadline, f"{len(self.outcomes)} of {count} settled"
            await asyncio.sleep(0.005)


def run(
    scenario: Callable[[Bench], Awaitable[None]],
    brokers: str,
    topic: str,
    *,
    delivery_seconds: float = 5.0,
    queue_messages: int = 10_000,
    message_max_bytes: int = 1_000_000,
    probe_seconds: float = 10.0,
    prepare: Callable[[], str] = lambda: "",
    unknown_settings: list[str] | None = None,
) -> None:
    settings = SpoilableSettings(
        brokers=brokers,
        client_id="test",
        compression="lz4",
        message_max_bytes=message_max_bytes,
        delivery_seconds=delivery_seconds,
        linger_seconds=0.001,
        queue_messages=queue_messages,
        unknown=[] if unknown_settings is None else unknown_settings,
    )

    async def main() -> None:
        lines = io.StringIO()
        publisher = Publisher(
            settings,
            topic=topic,
            dlq_topic=f"{topic}.dlq",
            notices=Notices(Log("relayd", stream=lines), time.monotonic),
            prepare=prepare,
            random=random.random,
            probe_seconds=probe_seconds,
        )
        try:
            await publisher.prepare()
            await scenario(Bench(publisher, lines))
        finally:
            publisher.close()

    asyncio.run(main())
