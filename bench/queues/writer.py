"""Commits events at a fixed rate, as ticketd does, in a process of its own.

`python -m bench.queues.writer` reads one JSON object of `Orders` from standard input and prints one
of what it did; SIGTERM ends it early. Arrivals are at a fixed rate whether or not the database
keeps up: what is due goes into the next statement of its lane, and the signal goes out after the
commit.
"""

import asyncio
import signal
import sys
import time
from dataclasses import asdict, dataclass
from uuid import UUID

import orjson
import psycopg
import uvloop
from psycopg import AsyncConnection

from bench.queues.rows import HEADERS, tails
from bench.queues.steady import STATEMENTS, uuid7
from servicedesk.bucket import bucket_of
from ticketd.wakeup import COALESCE_SECONDS

LANES = 4
TICK_SECONDS = 0.001
MOST_ROWS = 500

Connection = AsyncConnection[tuple[object, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """`table` is one of `STATEMENTS`; `tickets` take turns, each always on the same lane."""

    url: str
    table: str
    rate: float
    seconds: float
    size: int
    tickets: int = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """`late` events were committed more than 100 ms after they were due."""

    events: int
    seconds: float
    late: int
    cpu_seconds: float


def ticket_id(number: int) -> UUID:
    return UUID(int=(7 << 76) | (2 << 62) | number)


class Writer:
    """Event n is the (1 + n // tickets)th of ticket n % tickets."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._last = int(orders.rate * orders.seconds)
        self._ids = [ticket_id(number) for number in range(orders.tickets)]
        self._keys = [str(identifier) for identifier in self._ids]
        self._tails = tails(orders.size)
        self._began = 0.0
        self._touched = asyncio.Event()
        self._late = 0
        self._written = 0

    async def run(self) -> Written:
        signalling = asyncio.create_task(self._signal())
        self._began = time.perf_counter()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop)
        cpu = time.process_time()
        await asyncio.gather(*(self._lane(number) for number in range(LANES)))
        seconds = time.perf_counter() - self._began
        await asyncio.sleep(2 * COALESCE_SECONDS)
        signalling.cancel()
        return Written(
            events=self._written,
            seconds=seconds,
            late=self._late,
            cpu_seconds=time.process_time() - cpu,
        )

    def _stop(self) -> None:
        """What is due by now is the last."""
        elapsed = time.perf_counter() - self._began
        self._last = min(self._last, int(elapsed * self._orders.rate))

    async def _lane(self, lane: int) -> None:
        """Events `lane`, `lane + LANES`, …, in this order; event n is due at n / rate."""
        orders = self._orders
        number = lane
        async with await self._connect() as connection:
            statement = STATEMENTS[orders.table]
            while number < self._last:
                elapsed = time.perf_counter() - self._began
                due = min(int(elapsed * orders.rate), self._last)
                numbers = list(range(number, due, LANES))[:MOST_ROWS]
                if not numbers:
                    await asyncio.sleep(TICK_SECONDS)
                    continue
                await connection.execute(statement, self._columns(numbers), prepare=True)
                self._touched.set()
                done = time.perf_counter() - self._began
                self._late += sum(done - each / orders.rate > 0.1 for each in numbers)
                self._written += len(numbers)
                number = numbers[-1] + LANES

    def _columns(self, numbers: list[int]) -> dict[str, list[object]]:
        tickets = [number % self._orders.tickets for number in numbers]
        now = time.time()
        return {
            "buckets": [bucket_of(self._keys[ticket]) for ticket in tickets],
            "tickets": [self._ids[ticket] for ticket in tickets],
            "sequences": [1 + number // self._orders.tickets for number in numbers],
            "ids": [uuid7(now) for _ in numbers],
            "headers": [HEADERS] * len(numbers),
            "payloads": [
                f'{{"id":"{self._keys[ticket]}",{self._tails[number % len(self._tails)]}'
                for number, ticket in zip(numbers, tickets, strict=True)
            ],
        }

    async def _signal(self) -> None:
        async with await self._connect() as connection:
            while True:
                await self._touched.wait()
                self._touched.clear()
                await connection.execute("NOTIFY outbox")
                await asyncio.sleep(COALESCE_SECONDS)

    async def _connect(self) -> Connection:
        return await psycopg.AsyncConnection.connect(self._orders.url, autocommit=True)


async def _main() -> None:
    orders = Orders(**orjson.loads(sys.stdin.buffer.read()))
    print(orjson.dumps(asdict(await Writer(orders).run())).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(_main())
