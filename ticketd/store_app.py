"""The wiring of what a worker keeps tickets in: PostgreSQL or memory, and what Redis adds to it."""

import os
import time
from collections.abc import Awaitable, Callable
from functools import partial

from servicedesk.database import connect
from servicedesk.logs import Log
from servicedesk.wire import Connection
from ticketd.cache import CachingStore, TicketCache
from ticketd.config import Config
from ticketd.expiry import KeyExpiry
from ticketd.gate import Gate
from ticketd.installation import read_installation
from ticketd.lanes import LaneSettings
from ticketd.lifetime import Background
from ticketd.memory import MemoryTicketStore
from ticketd.metrics import Metrics
from ticketd.quotas import LocalBuckets, Quotas
from ticketd.redis_link import LinkSettings, RedisLink
from ticketd.redis_wire import RedisAddress
from ticketd.replays import ReplayingStore, Replays
from ticketd.store import PostgresTicketStore, TicketStore
from ticketd.wakeup import OutboxSignal


def build_store(
    config: Config, metrics: Metrics, link: RedisLink | None, log: Log, *, in_tasks: bool
) -> tuple[TicketStore, list[Background]]:
    """The store, and what has to run beside it."""
    if config.database_url is None:
        log.warning("memory_store", reason="no DATABASE_URL: no outbox, and tickets vanish")
        return MemoryTicketStore(time.monotonic, config.key_seconds), []
    signal_relayd = OutboxSignal(connector(config.database_url, "ticketd signal"), log)
    store = PostgresTicketStore(
        lanes=lane_settings(config, config.database_url, in_tasks=in_tasks),
        list_lanes=config.list_lanes,
        signal=signal_relayd.touch,
        observe=metrics.batches,
        count_error=lambda kind: metrics.database_errors.labels(kind).inc(),
    )
    expiry = KeyExpiry(connector(config.database_url, "ticketd expiry"), config.key_seconds, log)
    background: list[Background] = [store.run, signal_relayd.run, expiry.run]
    if link is None:
        return store, background
    replaying = ReplayingStore(store, Replays(link), metrics.replays.inc)
    background.append(link.run)
    if config.cache_seconds is None:
        return replaying, background
    gate = Gate(
        connect=connector(config.database_url, "ticketd gate"),
        my_server=link.server,
        now=time.monotonic,
        in_tasks=in_tasks,
        log=log,
    )
    cache = TicketCache(
        link,
        gate,
        seconds=config.cache_seconds,
        wall_clock=time.time,
        random_bytes=os.urandom,
    )
    return CachingStore(replaying, cache, gate, metrics.cache()), [*background, gate.run]


def build_quotas(config: Config, link: RedisLink | None) -> Quotas | None:
    if config.quota is None:
        return None
    return Quotas(config.quota, LocalBuckets(config.quota, time.monotonic), link)


def build_redis_link(
    config: Config, metrics: Metrics, log: Log, *, in_tasks: bool
) -> RedisLink | None:
    if config.redis_url is None or config.database_url is None:
        return None
    connect_once = connector(config.database_url, "ticketd start")
    settings = LinkSettings(
        address=RedisAddress.from_url(config.redis_url),
        read_owner=partial(read_installation, connect_once),
        exchange_seconds=config.redis_seconds,
        in_tasks=in_tasks,
        now=time.monotonic,
    )
    return RedisLink(settings, metrics.redis(), log)


def lane_settings(config: Config, url: str, *, in_tasks: bool) -> LaneSettings:
    return LaneSettings(
        connect=connector(url, "ticketd lane"),
        in_tasks=in_tasks,
        now=time.monotonic,
        lanes=config.lanes,
        most=config.batch_limit,
        queue_limit=config.queue_limit,
        retry_seconds=config.retry_seconds,
    )


def connector(url: str, application: str) -> Callable[[], Awaitable[Connection]]:
    return partial(connect, url, application=application)
