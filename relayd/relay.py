"""relayd's parts put together: they run from the start to SIGTERM, and stop in order.

A database that is away or not migrated, and a Kafka that is away, make it not ready, never dead.
"""

import asyncio
import random
import time
from collections.abc import Awaitable

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest

from relayd.config import Config
from relayd.listener import listen
from relayd.notices import Notices
from relayd.producer import ProducerSettings
from relayd.publisher import Publisher
from relayd.topics import Topics, ensure_topics
from servicedesk.admin import AdminServer, Probes
from servicedesk.backoff import Backoff
from servicedesk.collector import collect_seldom
from servicedesk.database import AWAY, SchemaError, create_pool, require_schema
from servicedesk.environment import SettingError
from servicedesk.logs import Log
from servicedesk.queue.drain import Drain
from servicedesk.queue.lease_store import LeaseStore
from servicedesk.queue.metrics import QueueMetrics
from servicedesk.queue.settings import DrainSettings
from servicedesk.queue.statements import Pool, Statements
from servicedesk.queue.store import QueueStore
from servicedesk.queue.tables import OUTBOX
from servicedesk.queue.trim_store import TrimStore
from servicedesk.trimming import Chore, Trimming

RETRY = Backoff(base_seconds=0.25, cap_seconds=2.0)
# The drain may use this part of SHUTDOWN_TIMEOUT; the rest is for ending what it ran on.
DRAIN_SHARE = 0.8
# As often as librdkafka looks by itself.
COUNT_SECONDS = 300.0
# Between two collections of garbage. The queue holds thousands of rows, none of them in a cycle.
YOUNG_OBJECTS = 50_000


class Relay:
    """One relayd. `owner` is its name among the workers, never used twice."""

    def __init__(self, config: Config, log: Log, owner: str) -> None:
        self._config = config
        self._log = log
        self._owner = owner
        self._registry = CollectorRegistry()
        self._metrics = QueueMetrics(OUTBOX, self._registry)
        self._start = dict.fromkeys(("database", "schema", "kafka"), "not asked yet")
        self._publisher: Publisher | None = None
        self._drain: Drain | None = None
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    async def run(self, stop: asyncio.Event) -> int:
        """Returns the exit code after `stop` is set.

        Raises SettingError for a taken METRICS_ADDR, and BucketCountError.
        """
        admin = self._open_admin()
        pool = create_pool(
            self._config.database_url, application="relayd", minimum=2, maximum=8, wait_seconds=5
        )
        leases = LeaseStore(Statements(pool, OUTBOX), self._owner)
        try:
            await pool.open(wait=False)
            if await before(stop, self._require_database(pool, leases)):
                work = asyncio.ensure_future(self._relay(pool, leases, stop))
                await self._finish(work, stop)
        finally:
            await asyncio.wait({asyncio.ensure_future(pool.close(timeout=1))}, timeout=1.5)
            admin.close()
        self._log.info("stopped")
        return 0

    def readiness(self) -> dict[str, str]:
        """The checks of /readyz; called from the admin port's threads."""
        checks = dict(self._start)
        if self._drain is not None:
            checks |= self._drain.readiness()
            away = list(self._drain.open_circuits().values())
            checks["kafka"] = f"away: {away[0]}" if away else "ok"
        if self._publisher is not None and self._publisher.unprepared:
            checks["kafka"] = f"away: {self._publisher.unprepared}"
        return checks

    def _open_admin(self) -> AdminServer:
        probes = Probes(readiness=self.readiness, metrics=lambda: generate_latest(self._registry))
        address = self._config.metrics_address
        try:
            return AdminServer(address, probes)
        except OSError as error:
            reason = f"is {address}, which cannot be listened on: {error.strerror or error}"
            raise SettingError("METRICS_ADDR", f"{reason}; it takes a free HOST:PORT") from error

    async def _relay(self, pool: Pool, leases: LeaseStore, stop: asyncio.Event) -> None:
        """Drain the outbox until `stop` is set, and settle what is under way then."""
        publisher = self._publisher = self._create_publisher()
        # Rows that wait already need not find Kafka "away" for the moment that this takes.
        await publisher.prepare()
        drain = self._drain = Drain(
            store=QueueStore(Statements(pool, OUTBOX)),
            leases=leases,
            target=publisher,
            settings=drain_settings(self._config),
            metrics=self._metrics,
            log=self._log,
            random=random.random,
        )
        self._log.info("started", owner=self._owner, topic=self._config.kafka_topic)
        collect_seldom(YOUNG_OBJECTS)
        url = self._config.database_url
        beside = [
            asyncio.create_task(prepare(publisher)),
            asyncio.create_task(listen(url, drain.wake, self._log, random.random)),
            asyncio.create_task(trimming(self._config, pool, self._log).run()),
        ]
        try:
            await drain.run(stop)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            publisher.close()

    async def _finish(self, work: asyncio.Future[None], stop: asyncio.Event) -> None:
        """Until `work` ends, which it does in time after `stop`; if not, it is cut off: what is
        not deleted is sent again by the next owner."""
        await before(stop, asyncio.shield(work))
        _, late = await asyncio.wait({work}, timeout=self._config.shutdown_seconds)
        if late:
            self._log.error("shutdown_cut_short", seconds=self._config.shutdown_seconds)
            work.cancel()
            await asyncio.wait({work}, timeout=1)
        elif not work.cancelled():
            work.result()

    async def _require_database(self, pool: Pool, leases: LeaseStore) -> None:
        failures = 0
        while True:
            try:
                async with pool.connection() as connection:
                    self._start["database"] = "ok"
                    await require_schema(connection)
                await leases.require_buckets()
            except SchemaError as error:
                self._not_ready("schema", str(error))
            except AWAY as error:
                self._not_ready("database", f"away: {type(error).__name__}")
            else:
                self._start["schema"] = "ok"
                return
            failures += 1
            await asyncio.sleep(RETRY.delay_seconds(failures, random.random))

    def _not_ready(self, check: str, reason: str) -> None:
        if self._start[check] != reason:
            self._log.warning("not_ready", check=check, reason=reason)
        self._start[check] = reason

    def _create_publisher(self) -> Publisher:
        config = self._config
        topics = Topics(
            brokers=config.kafka_brokers,
            client_id=config.kafka_client_id,
            topic=config.kafka_topic,
            dlq_topic=config.kafka_dlq_topic,
            fence_seconds=config.send_seconds,
            partitions=config.topic_partitions,
            replication=config.topic_replication,
        )
        return Publisher(
            producer_settings(config),
            topic=config.kafka_topic,
            dlq_topic=config.kafka_dlq_topic,
            notices=Notices(self._log, time.monotonic),
            prepare=lambda: ensure_topics(topics, self._log),
            random=random.random,
        )


async def before(stop: asyncio.Event, work: Awaitable[None]) -> bool:
    """Wait for `work`; False, and it is cancelled, when `stop` is set first. Its error rises."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        working.result()
        return True
    working.cancel()
    await asyncio.wait({working})
    return False


async def prepare(publisher: Publisher) -> None:
    """Until Kafka has answered once; later outages are the circuit's. Then only the number of
    partitions is asked for now and then, because a topic may be given more."""
    failures = 0
    while not await publisher.prepare():
        failures += 1
        await asyncio.sleep(RETRY.delay_seconds(failures, random.random))
    while True:
        await asyncio.sleep(COUNT_SECONDS if publisher.has_counted else RETRY.cap_seconds)
        await publisher.count()


def trimming(config: Config, pool: Pool, log: Log) -> Trimming:
    store = TrimStore(Statements(pool, OUTBOX))
    dead, history = config.dead_retention_seconds, config.history_retention_seconds
    return Trimming(
        chores=[
            Chore(name="dead", age_seconds=dead, forget=store.trim_dead),
            Chore(name="history", age_seconds=history, forget=store.trim_history),
        ],
        log=log,
    )


def producer_settings(config: Config) -> ProducerSettings:
    return ProducerSettings(
        brokers=config.kafka_brokers,
        client_id=config.kafka_client_id,
        compression=config.compression,
        message_max_bytes=config.message_max_bytes,
        delivery_seconds=config.delivery_seconds,
        linger_seconds=config.linger_seconds,
        # Room for everything that may be under way, and for dead letters beside it.
        queue_messages=2 * config.max_in_flight + 1_000,
    )


def drain_settings(config: Config) -> DrainSettings:
    return DrainSettings(
        lease_seconds=config.lease_seconds,
        send_seconds=config.send_seconds,
        drain_seconds=config.shutdown_seconds * DRAIN_SHARE,
        max_attempts=config.max_attempts,
        retry=Backoff(base_seconds=config.retry_base_seconds, cap_seconds=config.retry_cap_seconds),
        read_rows=config.batch_rows,
        lane_rows=max(64, 2 * config.max_in_flight),
        lane_in_flight=config.max_in_flight,
        poll_min_seconds=config.poll_min_seconds,
        poll_max_seconds=config.poll_max_seconds,
    )
