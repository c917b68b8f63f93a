"""Puts notifyd together from its settings and runs it until it is told to stop."""

import asyncio
import os
import random
import secrets
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, generate_latest

from notifyd.channels.channel import Channel
from notifyd.channels.log import LogChannel
from notifyd.channels.smtp import SmtpChannel
from notifyd.channels.webhook import WebhookChannel
from notifyd.config import Config
from notifyd.consumer import TopicConsumer
from notifyd.consumer_settings import ConsumerSettings
from notifyd.dead_letters import DeadLetterProducer, DeadLetters
from notifyd.delivery import ChannelTarget
from notifyd.intake import Batch, Intake
from notifyd.metrics import IngestMetrics
from notifyd.notifications import Subscriptions
from notifyd.store import InboxStore
from notifyd.worker import Worker
from servicedesk.admin import AdminServer, Probes
from servicedesk.backoff import Backoff
from servicedesk.collector import collect_seldom
from servicedesk.database import create_pool
from servicedesk.environment import SettingError
from servicedesk.logs import Log
from servicedesk.queue.drain import Drain
from servicedesk.queue.lease_store import LeaseStore
from servicedesk.queue.metrics import QueueMetrics
from servicedesk.queue.settings import DrainSettings
from servicedesk.queue.statements import Pool, Statements
from servicedesk.queue.store import QueueStore
from servicedesk.queue.tables import DELIVERY
from servicedesk.queue.trim_store import TrimStore
from servicedesk.shutdown import stop_event
from servicedesk.trimming import Chore, Trimming

POOL_CONNECTIONS = 8
POOL_WAIT_SECONDS = 5.0
# Between two collections of garbage: several batches' worth, hardly any of it in a cycle.
YOUNG_OBJECTS = 50_000
INTAKE_BACKOFF = Backoff(base_seconds=0.1, cap_seconds=2.0)
# Shares of SHUTDOWN_TIMEOUT. The two stages stop at the same time; the deliveries use theirs
# twice, for what is under way and for the leases.
FINISH_SHARE = 0.4
DRAIN_SHARE = 0.4
LEAVE_SHARE = 0.95


def channels_of(config: Config, log: Log) -> dict[str, Channel]:
    """Every receiver's channel by its name. Call it on the running loop."""
    channels: dict[str, Channel] = {}
    if config.log_channel:
        channels["log"] = LogChannel(log)
    for webhook in config.webhooks:
        channels[webhook.receiver] = WebhookChannel(
            url=webhook.url,
            keys=webhook.keys,
            timeout_seconds=config.webhook_timeout_seconds,
            connections=config.delivery.receiver_in_flight,
            policy=config.address_policy,
            now=lambda: datetime.now(UTC),
        )
    if config.mail is not None:
        channels["smtp"] = SmtpChannel(
            server=config.mail.server,
            sender=config.mail.sender,
            recipients=config.mail.recipients,
            timeout_seconds=config.mail.timeout_seconds,
            connections=config.mail.connections,
            tls=ssl.create_default_context(),
            log=log,
        )
    return channels


def drain_of(
    config: Config, pool: Pool, target: ChannelTarget, registry: CollectorRegistry, log: Log
) -> tuple[Drain, LeaseStore]:
    statements = Statements(pool, DELIVERY)
    in_flight = config.delivery.receiver_in_flight
    leases = LeaseStore(statements, f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}")
    drain = Drain(
        store=QueueStore(statements),
        leases=leases,
        target=target,
        settings=DrainSettings(
            lease_seconds=config.delivery.lease_seconds,
            send_seconds=target.send_seconds,
            drain_seconds=config.shutdown_seconds * DRAIN_SHARE,
            max_attempts=config.delivery.max_attempts,
            retry=config.delivery.retry,
            read_rows=config.delivery.batch_rows,
            lane_in_flight=in_flight,
            # More would wait for a connection, and their time-outs would run meanwhile.
            narrow_lanes={"smtp": min(config.mail.connections, in_flight)} if config.mail else {},
            poll_min_seconds=config.delivery.poll_min_seconds,
            poll_max_seconds=config.delivery.poll_max_seconds,
        ),
        metrics=QueueMetrics(DELIVERY, registry),
        log=log,
        random=random.random,
    )
    return drain, leases


def worker_of(
    config: Config,
    *,
    pool: Pool,
    target: ChannelTarget,
    dead_letters: DeadLetters,
    registry: CollectorRegistry,
    log: Log,
) -> Worker:
    drain, leases = drain_of(config, pool, target, registry, log)
    metrics = IngestMetrics(registry)
    store = InboxStore(pool, Subscriptions(config.subscriptions))
    intake = Intake(
        store=store,
        dead_letters=dead_letters,
        metrics=metrics,
        log=log,
        backoff=INTAKE_BACKOFF,
        random=random.random,
        now=lambda: datetime.now(UTC),
    )

    async def take_in(batch: Batch) -> None:
        if await intake.take_in(batch):
            drain.wake()

    return Worker(
        store=store,
        buckets=leases,
        intake=intake,
        consumer=TopicConsumer(
            settings=consumer_settings(config),
            prepare=intake.prepare,
            take_in=take_in,
            metrics=metrics,
            log=log,
        ),
        deliveries=drain,
        trimming=trimming_of(config, pool, store, log),
        log=log,
    )


def trimming_of(config: Config, pool: Pool, store: InboxStore, log: Log) -> Trimming:
    keep = config.retention
    beside = TrimStore(Statements(pool, DELIVERY))
    return Trimming(
        chores=[
            Chore(name="inbox", age_seconds=keep.inbox_seconds, forget=store.trim_inbox),
            Chore(name="done", age_seconds=keep.done_seconds, forget=store.trim_done),
            Chore(name="dead", age_seconds=keep.dead_seconds, forget=beside.trim_dead),
            Chore(name="history", age_seconds=keep.history_seconds, forget=beside.trim_history),
        ],
        log=log,
    )


def consumer_settings(config: Config) -> ConsumerSettings:
    return ConsumerSettings(
        brokers=config.kafka.brokers,
        topic=config.kafka.topic,
        group_id=config.kafka.group_id,
        client_id=config.kafka.client_id,
        fetch_wait_ms=config.kafka.fetch_wait_ms,
        session_ms=config.kafka.session_ms,
        batch_records=config.ingest_batch,
        finish_seconds=config.shutdown_seconds * FINISH_SHARE,
    )


async def serve(config: Config, log: Log) -> int:
    """Runs until SIGTERM or SIGINT; the exit code. Raises SettingError, BucketCountError,
    KafkaException for impossible settings, and faults of the program."""
    stop = stop_event()
    registry = CollectorRegistry()
    pool = create_pool(
        config.database_url,
        application="notifyd",
        minimum=1,
        maximum=POOL_CONNECTIONS,
        wait_seconds=POOL_WAIT_SECONDS,
    )
    async with AsyncExitStack() as stack:
        dead_letters = DeadLetters(DeadLetterProducer(config.kafka))
        target = ChannelTarget(
            channels=channels_of(config, log), dead_letters=dead_letters, log=log
        )
        stack.push_async_callback(target.close)
        await pool.open(wait=False)
        stack.push_async_callback(pool.close)
        worker = worker_of(
            config, pool=pool, target=target, dead_letters=dead_letters, registry=registry, log=log
        )
        admin = open_admin(config, worker, registry, stop)
        stack.callback(admin.close)
        collect_seldom(YOUNG_OBJECTS)
        log.info("started", receivers=[each.receiver for each in config.subscriptions])
        await until_stopped(worker, stop, config.shutdown_seconds, log)
    return 0


def open_admin(
    config: Config, worker: Worker, registry: CollectorRegistry, stop: asyncio.Event
) -> AdminServer:
    """Raises SettingError when the address is taken."""

    def readiness() -> Mapping[str, str]:
        stopping = {"daemon": "stopping"} if stop.is_set() else {}
        return {**worker.readiness(), **stopping}

    probes = Probes(readiness=readiness, metrics=lambda: generate_latest(registry))
    try:
        return AdminServer(config.metrics_address, probes)
    except OSError as error:
        raise SettingError(
            "METRICS_ADDR",
            f"is {config.metrics_address}, which cannot be opened ({error.strerror}); "
            "it takes a free HOST:PORT",
        ) from error


async def until_stopped(worker: Worker, stop: asyncio.Event, seconds: float, log: Log) -> None:
    """Raises what `worker.run` raises."""
    running = asyncio.create_task(worker.run(stop))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not running.done():
        log.info("stopping")
        leave_in_time(seconds * LEAVE_SHARE, log)
    await running
    log.info("stopped")


def leave_in_time(seconds: float, log: Log) -> None:
    """End the process after so long, wherever it hangs: librdkafka may wait for brokers that are
    away. All that matters is in the database or in Kafka, and the rest is repeated."""

    def leave() -> None:
        log.warning("shutdown_cut_short", seconds=seconds)
        os._exit(0)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
