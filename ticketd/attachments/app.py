"""The wiring of attachments. Importing it loads botocore and aiohttp, so only a worker with an S3
store does."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from servicedesk.logs import Log
from ticketd.attachments.bucket import Bucket
from ticketd.attachments.credentials import Found, Source, fixed
from ticketd.attachments.errands import Errands
from ticketd.attachments.handlers import AttachmentHandlers
from ticketd.attachments.health import StoreHealth
from ticketd.attachments.metrics import AttachmentMetrics
from ticketd.attachments.settings import AttachmentSettings
from ticketd.attachments.store import AttachmentStore
from ticketd.attachments.sweeper import Sweeper
from ticketd.identifiers import IdentifierSource
from ticketd.lanes import LaneSettings
from ticketd.lifetime import Background
from ticketd.metrics import Metrics
from ticketd.pending import in_task
from ticketd.readiness import storage_check

AT_ONCE = 256
# Of TICKETD_REQUEST_TIMEOUT: the answer to a long errand comes before the request is cut off.
PATIENCE_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachments:
    """The handlers, what runs beside them, and the checks of readiness."""

    handlers: AttachmentHandlers
    background: list[Background]
    checks: Callable[[], dict[str, str]]


def build_attachments(
    settings: AttachmentSettings,
    *,
    lanes: LaneSettings,
    metrics: Metrics,
    identifiers: IdentifierSource,
    now: Callable[[], datetime],
    note_change: Callable[[UUID], Coroutine[Any, Any, None]],
    request_seconds: float,
    log: Log,
) -> Attachments:
    """`note_change` waits as requests do; it runs after what may have changed a ticket, and before
    that is answered."""
    observer = AttachmentMetrics(metrics.registry)
    bucket = Bucket(settings, _credentials(settings), now, observer)
    health = StoreHealth(
        probe=bucket.probe, went=observer.store_went, came_back=observer.store_came_back, log=log
    )
    store = AttachmentStore(lanes=lanes, observer=metrics.batches("attachment"))
    sweeper = Sweeper(
        store=store,
        delete=bucket.delete,
        health=health,
        sweep_seconds=settings.sweep_seconds,
        count=observer.removed,
        log=log,
    )
    handlers = AttachmentHandlers(
        store=store,
        bucket=bucket,
        health=health,
        errands=Errands(
            in_tasks=lanes.in_tasks,
            most=AT_ONCE,
            patience_seconds=request_seconds * PATIENCE_SHARE,
        ),
        identifiers=identifiers,
        now=now,
        note_change=(
            note_change if lanes.in_tasks else lambda ticket_id: in_task(note_change(ticket_id))
        ),
        removed=sweeper.wake,
        limits=settings.limits,
        upload_seconds=settings.upload_seconds,
        late_seconds=settings.late_seconds,
    )
    return Attachments(
        handlers=handlers,
        background=[store.run, bucket.run, health.watch, sweeper.run],
        checks=lambda: {"storage": storage_check(is_up=not health.is_away)},
    )


def _credentials(settings: AttachmentSettings) -> Source:
    if settings.access_key is None or settings.secret_key is None:
        return Found().give
    return fixed(settings.access_key, settings.secret_key, settings.session_token)
