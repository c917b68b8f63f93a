"""The `webhook` channel: the event envelope as a signed POST (Standard Webhooks).

| answer                                    | outcome      | because                              |
| ----------------------------------------- | ------------ | ------------------------------------ |
| 2xx                                       | Acknowledged |                                      |
| 3xx                                       | Rejected     | a redirect could lead anywhere       |
| 429, 502, 503, 504                        | Unreachable  | it speaks for the receiver as such   |
| other 4xx, 5xx                            | Rejected     | it may concern this event only       |
| refused, unresolved, TLS, address refused | Unreachable  | no event would get through           |
| time-out or break after the connection    | Unreachable  | most likely it is the receiver       |

One event that makes a sound receiver hang or answer 503 is found out by the queue: when others get
through meanwhile, it is rejected there after a few times. Retry-After is honoured up to an hour:
for a rejected event by its own wait, for a receiver by not probing it before.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import orjson

from notifyd.channels.addresses import AddressPolicy, guarded_socket
from notifyd.channels.channel import failure_text, single_line
from notifyd.channels.signature import signature
from servicedesk.queue.row import Acknowledged, Outcome, QueuedRow, Rejected, Unreachable

USER_AGENT = "servicedesk-lite"
RETRY_AFTER_CAP_SECONDS = 3600.0
ANSWER_BYTES = 4096
ANSWER_SECONDS = 1.0
QUOTED_CHARACTERS = 200
SPEAKS_FOR_RECEIVER = frozenset({429, 502, 503, 504})


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """RFC 9110, 10.2.3: seconds or a date, capped; None when missing or malformed."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip(), re.ASCII):
        return min(float(value), RETRY_AFTER_CAP_SECONDS)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the latter for an absurd time zone
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), RETRY_AFTER_CAP_SECONDS)


class WebhookChannel:
    """One receiver, with connections of its own, so that a hanging one holds nobody else's.

    Must be made on the running event loop. `keys` sign every request; `now` is the wall clock.
    """

    def __init__(
        self,
        *,
        url: str,
        keys: Sequence[bytes],
        timeout_seconds: float,
        connections: int,
        policy: AddressPolicy,
        now: Callable[[], datetime],
    ) -> None:
        self.timeout_seconds = timeout_seconds
        # Half, so that a connection that fails is told apart from an answer that is late.
        self._connect_seconds = timeout_seconds / 2
        self._url = url
        self._keys = tuple(keys)
        self._now = now
        self._quiet_until: datetime | None = None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=connections, socket_factory=guarded_socket(policy), ttl_dns_cache=10
            ),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def deliver(self, row: QueuedRow) -> Outcome:
        try:
            async with asyncio.timeout(self.timeout_seconds):
                return await self._post_twice(row)
        except aiohttp.ClientConnectorError as error:
            # Its text has the host and the port of the URL, and no more of it.
            return Unreachable(error=failure_text(type(error).__name__, error))
        except aiohttp.ConnectionTimeoutError:
            text = f"no connection within {self._connect_seconds:g}s"
            return Unreachable(error=failure_text("ConnectionTimeoutError", text))
        except TimeoutError:
            text = f"no answer within {self.timeout_seconds:g}s"
            return Unreachable(error=failure_text("TimeoutError", text))
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            text = "the connection broke before the answer"
            return Unreachable(error=failure_text(type(error).__name__, text))
        except aiohttp.ClientError as error:
            # Their texts may quote the URL, which may hold a secret.
            return Rejected(error=failure_text(type(error).__name__, "no valid HTTP answer"))

    async def _post_twice(self, row: QueuedRow) -> Outcome:
        try:
            return await self._post(row)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise
            # Most likely an idle connection that the receiver closed just as it was used again;
            # the webhook-id lets it recognise a repeat.
            return await self._post(row)

    async def _post(self, row: QueuedRow) -> Outcome:
        body = row.payload
        async with self._session.post(
            self._url, data=body, headers=self._headers(row, body), allow_redirects=False
        ) as response:
            answer = await _beginning(response)
            return self._judge(response, answer)

    def _headers(self, row: QueuedRow, body: bytes) -> dict[str, str]:
        timestamp = int(self._now().timestamp())
        event_id = str(row.event_id)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._keys, event_id, timestamp, body),
        }
        traceparent = orjson.loads(row.headers).get("traceparent")
        if isinstance(traceparent, str):
            headers["traceparent"] = traceparent
        return headers

    def _judge(self, response: aiohttp.ClientResponse, answer: bytes) -> Outcome:
        status = response.status
        if 200 <= status < 300:
            return Acknowledged()
        if 300 <= status < 400:
            text = f"{status}, and redirects are not followed; set the final URL"
            return Rejected(error=failure_text("Redirected", text))
        wait_seconds = retry_after_seconds(response.headers.get("Retry-After"), self._now())
        error = failure_text("HTTPStatus", f"{status} {_quoted(answer)}")
        if status in SPEAKS_FOR_RECEIVER:
            self._be_quiet(wait_seconds)
            return Unreachable(error=error)
        return Rejected(error=error, retry_after_seconds=wait_seconds)

    def _be_quiet(self, wait_seconds: float | None) -> None:
        if wait_seconds is not None:
            now = self._now()
            self._quiet_until = datetime.fromtimestamp(now.timestamp() + wait_seconds, UTC)

    async def probe(self) -> bool:
        """Not before the receiver's own Retry-After; otherwise an event is the probe."""
        return self._quiet_until is None or self._now() >= self._quiet_until

    async def close(self) -> None:
        await self._session.close()


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """A few KB of the answer, which also frees the connection for reuse if that is all of it.

    The status has been given by then, so a body that hangs or breaks off changes nothing.
    """
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(ANSWER_SECONDS):
            return await response.content.read(ANSWER_BYTES)
    return b""


def _quoted(answer: bytes) -> str:
    return single_line(answer.decode("utf-8", "replace"))[:QUOTED_CHARACTERS]
