"""The wiring of a worker: the application, and the HTTP server that `python -m ticketd` gives it.

`create_app` makes it from the environment for any ASGI server.
"""

import multiprocessing
import os
import random
import secrets
import signal
import time
from datetime import UTC, datetime
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from servicedesk.collector import collect_seldom
from servicedesk.logs import Log, capture_library_logs
from ticketd.access_log import AccessLog
from ticketd.asgi import Application
from ticketd.attachments.disabled import DisabledAttachments
from ticketd.config import Config
from ticketd.cursor import Cursors
from ticketd.handlers import TicketHandlers
from ticketd.identifiers import IdentifierSource
from ticketd.lifetime import Heartbeat, Lifetime
from ticketd.listener import HttpServer
from ticketd.metrics import Metrics
from ticketd.middleware import Pipeline
from ticketd.operations import OperationHandlers
from ticketd.randomness import RandomBlocks
from ticketd.readiness import Readiness
from ticketd.router import Handler, Route, Router
from ticketd.store import TicketStore, Work
from ticketd.store_app import build_quotas, build_redis_link, build_store, lane_settings
from ticketd.tokens import READ, WRITE, TokenFile

if TYPE_CHECKING:
    from ticketd.attachments.app import Attachments

# How long a stop hears out clients that are in the midst of their work, and the part of
# SHUTDOWN_TIMEOUT that it may take.
QUIET_SECONDS = 1.0
QUIET_SHARE = 0.25
# Between two collections of garbage.
YOUNG_OBJECTS = 20_000
CONTRACT = Path(__file__).with_name("openapi.yaml")


def create_app() -> Application:
    """Raises SettingError and TokenFileError."""
    config = Config.from_environment(os.environ)
    log = Log("ticketd", level=config.log_level)
    capture_library_logs(log)
    app = build_app(config, log, in_tasks=True)
    collect_seldom(YOUNG_OBJECTS)
    return app


def build_app(config: Config, log: Log, *, in_tasks: bool) -> Application:
    """`in_tasks` is for other servers, which run each request in a task."""
    metrics = Metrics()
    # The first beat: the next one comes after a look at the database, which may take seconds.
    metrics.heartbeat.set(time.time())
    random_bytes = RandomBlocks(os.urandom).take
    link = build_redis_link(config, metrics, log, in_tasks=in_tasks)
    store, background = build_store(config, metrics, link, log, in_tasks=in_tasks)
    identifiers = IdentifierSource(time.time_ns, random_bytes)
    attachments = _attachments(config, store, identifiers, metrics, log, in_tasks=in_tasks)
    readiness = Readiness(
        store,
        lambda state: metrics.database_state.set(int(state)),
        log,
        attachments.checks if attachments else dict,
    )
    access_log = AccessLog(log.write_raw) if config.access_log else None
    tokens = config.tokens_file and TokenFile(config.tokens_file, time.monotonic, log)
    heartbeat = _heartbeat(metrics, log)
    lifetime = Lifetime(
        store=store,
        readiness=readiness,
        background=[
            readiness.watch,
            metrics.keep_flushed,
            heartbeat.beat,
            *background,
            *(attachments.background if attachments else ()),
        ],
        flush=[metrics.flush, *([access_log.flush] if access_log else [])],
        end=_end_this_process,
        log=log,
    )
    pipeline = Pipeline(
        router=Router(
            _routes(
                config,
                store,
                attachments=attachments,
                readiness=readiness,
                metrics=metrics,
                identifiers=identifiers,
            )
        ),
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
        quotas=build_quotas(config, link),
    )
    return Application(pipeline, lifetime, lambda error: log.error("start_failed", error=error))


def build_server(config: Config, pipeline: Pipeline) -> HttpServer:
    """The server of `python -m ticketd`. Call it inside the running loop."""
    return HttpServer(
        pipeline,
        header_seconds=config.header_seconds,
        idle_seconds=config.idle_seconds,
        quiet_seconds=min(QUIET_SECONDS, config.shutdown_seconds * QUIET_SHARE),
        connection_limit=config.connection_limit,
        wall_clock=time.time,
        format_date=partial(formatdate, usegmt=True),
        report=pipeline.report_working,
    )


def _attachments(
    config: Config,
    store: TicketStore,
    identifiers: IdentifierSource,
    metrics: Metrics,
    log: Log,
    *,
    in_tasks: bool,
) -> "Attachments | None":
    """None without an S3 store, and then nothing of what it needs is loaded."""
    if config.attachments is None or config.database_url is None:
        return None
    from ticketd.attachments.app import build_attachments  # noqa: PLC0415

    return build_attachments(
        config.attachments,
        lanes=lane_settings(config, config.database_url, in_tasks=in_tasks),
        metrics=metrics,
        identifiers=identifiers,
        now=_utc_now,
        note_change=store.note_change,
        request_seconds=config.request_seconds,
        log=log,
    )


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
    *,
    attachments: "Attachments | None",
    readiness: Readiness,
    metrics: Metrics,
    identifiers: IdentifierSource,
) -> list[Route]:
    ticket = TicketHandlers(
        store=store,
        identifiers=identifiers,
        cursors=Cursors((config.cursor_secret or secrets.token_hex(32)).encode()),
        now=_utc_now,
        require_if_match=config.require_if_match,
    )
    attachment = attachments.handlers if attachments else DisabledAttachments()
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
        ("POST", "/tickets/{id}/attachments", attachment.announce, WRITE, "change"),
        ("GET", "/tickets/{id}/attachments", attachment.list, READ, "read"),
        ("GET", "/tickets/{id}/attachments/{attachment_id}", attachment.download, READ, "read"),
        ("DELETE", "/tickets/{id}/attachments/{attachment_id}", attachment.remove, WRITE, "change"),
        (
            "POST",
            "/tickets/{id}/attachments/{attachment_id}/complete",
            attachment.complete,
            WRITE,
            "change",
        ),
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


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _end_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
