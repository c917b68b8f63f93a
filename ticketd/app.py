"""The wiring of a worker: the application, and the HTTP server that `python -m ticketd` gives it.

`create_app` makes it from the environment for any ASGI server.
"""

import gc
import multiprocessing
import os
import random
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import formatdate
from functools import partial
from pathlib import Path

from servicedesk.database import connect
from servicedesk.logs import Log, capture_library_logs
from ticketd.access_log import AccessLog
from ticketd.asgi import Application
from ticketd.cache import CachingStore, TicketCache
from ticketd.config import Config
from ticketd.cursor import Cursors
from ticketd.expiry import KeyExpiry
from ticketd.gate import Gate
from ticketd.handlers import TicketHandlers
from ticketd.identifiers import IdentifierSource
from ticketd.installation import read_installation
from ticketd.lanes import LaneSettings
from ticketd.lifetime import Background, Heartbeat, Lifetime
from ticketd.listener import HttpServer
from ticketd.memory import MemoryTicketStore
from ticketd.metrics import Metrics
from ticketd.middleware import Pipeline
from ticketd.operations import OperationHandlers
from ticketd.quotas import LocalBuckets, Quotas
from ticketd.randomness import RandomBlocks
from ticketd.readiness import Readiness
from ticketd.redis_link import LinkSettings, RedisLink
from ticketd.redis_wire import RedisAddress
from ticketd.replays import ReplayingStore, Replays
from ticketd.router import Handler, Route, Router
from ticketd.store import PostgresTicketStore, TicketStore, Work
from ticketd.tokens import READ, WRITE, TokenFile
from ticketd.wakeup import OutboxSignal
from ticketd.wire import Connection

CONTRACT = Path(__file__).with_name("openapi.yaml")


def create_app() -> Application:
    """Raises SettingError and TokenFileError."""
    config = Config.from_environment(os.environ)
    log = Log("ticketd", level=config.log_level)
    capture_library_logs(log)
    app = build_app(config, log, in_tasks=True)
    collect_less_often()
    return app


def build_app(config: Config, log: Log, *, in_tasks: bool) -> Application:
    """`in_tasks` is for other servers, which run each request in a task."""
    metrics = Metrics()
    link = _redis_link(config, metrics, log, in_tasks=in_tasks)
    store, background = _store(config, metrics, link, log, in_tasks=in_tasks)
    readiness = Readiness(store, lambda state: metrics.database_state.set(int(state)), log)
    access_log = AccessLog(log.write_raw) if config.access_log else None
    tokens = config.tokens_file and TokenFile(config.tokens_file, time.monotonic, log)
    heartbeat = _heartbeat(metrics, log)
    random_bytes = RandomBlocks(os.urandom).take
    lifetime = Lifetime(
        store=store,
        readiness=readiness,
        background=[readiness.watch, metrics.keep_flushed, heartbeat.beat, *background],
        flush=[metrics.flush, *([access_log.flush] if access_log else [])],
        end=_end_this_process,
        log=log,
    )
    pipeline = Pipeline(
        router=Router(_routes(config, store, readiness, metrics, random_bytes)),
        authenticate=tokens.caller if tokens else None,
        readiness=readiness,
        has_room=store.has_room,
        request_seconds=config.request_seconds,
        metrics=metrics,
        access_log=access_log,
        log=log,
        clock=time.perf_counter,
        wall_clock=time.time,
        random_bytes=random_bytes,
        random=random.random,
        quotas=_quotas(config, link),
    )
    return Application(pipeline, lifetime, lambda error: log.error("start_failed", error=error))


def build_server(config: Config, pipeline: Pipeline) -> HttpServer:
    """The server of `python -m ticketd`. Call it inside the running loop."""
    return HttpServer(
        pipeline,
        header_seconds=config.header_seconds,
        idle_seconds=config.idle_seconds,
        connection_limit=config.connection_limit,
        wall_clock=time.time,
        format_date=partial(formatdate, usegmt=True),
        report=pipeline.report_working,
    )


def collect_less_often() -> None:
    """What is loaded now stays, so the collector need not walk it again; and requests leave next to
    no cycles behind, so it may look for them less often than after every 700 objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _store(
    config: Config, metrics: Metrics, link: RedisLink | None, log: Log, *, in_tasks: bool
) -> tuple[TicketStore, list[Background]]:
    """The store, and what has to run beside it."""
    if config.database_url is None:
        log.warning("memory_store", reason="no DATABASE_URL: no outbox, and tickets vanish")
        return MemoryTicketStore(time.monotonic, config.key_seconds), []
    signal_relayd = OutboxSignal(_connect(config.database_url, "ticketd signal"), log)
    store = PostgresTicketStore(
        lanes=LaneSettings(
            connect=_connect(config.database_url, "ticketd lane"),
            in_tasks=in_tasks,
            now=time.monotonic,
            lanes=config.lanes,
            most=config.batch_limit,
            queue_limit=config.queue_limit,
            retry_seconds=config.retry_seconds,
        ),
        list_lanes=config.list_lanes,
        signal=signal_relayd.touch,
        observe=metrics.batches,
        count_error=lambda kind: metrics.database_errors.labels(kind).inc(),
    )
    expiry = KeyExpiry(_connect(config.database_url, "ticketd expiry"), config.key_seconds, log)
    background: list[Background] = [store.run, signal_relayd.run, expiry.run]
    if link is None:
        return store, background
    replaying = ReplayingStore(store, Replays(link), metrics.replays.inc)
    background.append(link.run)
    if config.cache_seconds is None:
        return replaying, background
    gate = Gate(
        connect=_connect(config.database_url, "ticketd gate"),
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


def _quotas(config: Config, link: RedisLink | None) -> Quotas | None:
    if config.quota is None:
        return None
    return Quotas(config.quota, LocalBuckets(config.quota, time.monotonic), link)


def _redis_link(config: Config, metrics: Metrics, log: Log, *, in_tasks: bool) -> RedisLink | None:
    if config.redis_url is None or config.database_url is None:
        return None
    connect_once = _connect(config.database_url, "ticketd start")
    settings = LinkSettings(
        address=RedisAddress.from_url(config.redis_url),
        read_owner=partial(read_installation, connect_once),
        exchange_seconds=config.redis_seconds,
        in_tasks=in_tasks,
        now=time.monotonic,
    )
    return RedisLink(settings, metrics.redis(), log)


def _connect(url: str, application: str) -> Callable[[], Awaitable[Connection]]:
    return partial(connect, url, application=application)


def _heartbeat(metrics: Metrics, log: Log) -> Heartbeat:
    parent = multiprocessing.parent_process()
    return Heartbeat(
        report=metrics.heartbeat.set,
        wall_clock=time.time,
        parent_is_alive=parent.is_alive if parent else lambda: True,
        end=_end_this_process,
        log=log,
    )


def _routes(
    config: Config,
    store: TicketStore,
    readiness: Readiness,
    metrics: Metrics,
    random_bytes: Callable[[int], bytes],
) -> list[Route]:
    ticket = TicketHandlers(
        store=store,
        identifiers=IdentifierSource(time.time_ns, random_bytes),
        cursors=Cursors((config.cursor_secret or secrets.token_hex(32)).encode()),
        now=lambda: datetime.now(UTC),
        require_if_match=config.require_if_match,
    )
    operation = OperationHandlers(
        checks=readiness.checks,
        exposition=partial(metrics.exposition, config.metrics_directory),
        contract=CONTRACT.read_bytes(),
    )
    table: list[tuple[str, str, Handler, str | None, Work | None]] = [
        ("POST", "/tickets", ticket.create, WRITE, "create"),
        ("GET", "/tickets", ticket.list, READ, "list"),
        ("GET", "/tickets/{id}", ticket.read, READ, "read"),
        ("PATCH", "/tickets/{id}", ticket.update, WRITE, "change"),
        ("POST", "/tickets/{id}/close", ticket.close, WRITE, "change"),
        ("GET", "/healthz", operation.liveness, None, None),
        ("GET", "/readyz", operation.readiness, None, None),
        ("GET", "/metrics", operation.metrics, "", None),
        ("GET", "/openapi.yaml", operation.openapi, None, None),
    ]
    return [
        Route(
            method=served,
            pattern=pattern,
            handler=handler,
            scope=scope,
            work=work,
            metrics=metrics.route(served, pattern),
        )
        for method, pattern, handler, scope, work in table
        # RFC 9110, 9.3.2: HEAD is GET without the body, which the pipeline leaves out.
        for served in ((method, "HEAD") if method == "GET" else (method,))
    ]


def _end_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
