"""The webhook channel against real receivers: signatures, outcomes, and where it refuses to go."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from notifyd.channels.addresses import AddressPolicy
from notifyd.channels.signature import signing_key
from notifyd.channels.webhook import WebhookChannel, retry_after_seconds
from servicedesk.queue.row import Acknowledged, Outcome, QueuedRow, Rejected, Unreachable
from tests.notifyd.receiver import Answer, Receiver, Request
from tests.notifyd.samples import SECRET, TITLE, TRACEPARENT, queued_row
from tests.support.processes import free_port

DEV = AddressPolicy(allow_loopback=True, allow_private=False)
STRICT = AddressPolicy(allow_loopback=False, allow_private=False)
OTHER_SECRET = "whsec_" + "QUJD" * 8

Result = TypeVar("Result")


def with_channel(
    url: str, act: Callable[[WebhookChannel], Awaitable[Result]], **changes: Any
) -> Result:
    async def scenario() -> Result:
        settings: dict[str, Any] = {
            "url": url,
            "keys": (signing_key(SECRET),),
            "timeout_seconds": 5.0,
            "connections": 4,
            "policy": DEV,
            "now": lambda: datetime.now(UTC),
        }
        channel = WebhookChannel(**(settings | changes))
        try:
            return await act(channel)
        finally:
            await channel.close()

    return asyncio.run(scenario())


def deliver(url: str, row: QueuedRow | None = None, **changes: Any) -> Outcome:
    async def act(channel: WebhookChannel) -> Outcome:
        return await channel.deliver(row or queued_row())

    return with_channel(url, act, **changes)


def answering(answer: Answer) -> Callable[[Request], Answer]:
    return lambda request: answer


def test_receiver_verifies_the_signature_and_gets_the_envelope_as_it_is() -> None:
    row = queued_row()
    with Receiver() as receiver:
        assert deliver(receiver.url, row) == Acknowledged()
    [request] = receiver.requests
    assert request.path == "/hook"
    assert request.body == row.payload
    assert request.headers["webhook-id"] == str(row.event_id)
    assert request.headers["traceparent"] == TRACEPARENT
    assert request.headers["content-type"] == "application/json"
    verified = Webhook(SECRET).verify(request.body, dict(request.headers))
    assert verified["payload"]["title"] == TITLE
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER_SECRET).verify(request.body, dict(request.headers))


def test_receiver_verifies_with_either_key_while_they_are_rotated() -> None:
    keys = (signing_key(SECRET), signing_key(OTHER_SECRET))
    with Receiver() as receiver:
        deliver(receiver.url, keys=keys)
    [request] = receiver.requests
    for secret in (SECRET, OTHER_SECRET):
        Webhook(secret).verify(request.body, dict(request.headers))


def test_repeat_has_the_same_id_so_that_it_can_be_recognised() -> None:
    row = queued_row()
    with Receiver() as receiver:
        deliver(receiver.url, row)
        deliver(receiver.url, row)
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_redirect_is_refused_and_not_followed() -> None:
    with Receiver() as elsewhere:
        there = Answer(status=307, headers={"Location": elsewhere.url})
        with Receiver(answering(there)) as receiver:
            outcome = deliver(receiver.url)
    assert isinstance(outcome, Rejected)
    assert "307" in outcome.error
    assert elsewhere.requests == []


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422, 500, 501])
def test_refusal_is_of_this_event(status: int) -> None:
    with Receiver(answering(Answer(status=status, body="нет\n\x1b[31m".encode()))) as receiver:
        outcome = deliver(receiver.url)
    assert outcome == Rejected(error=f"HTTPStatus: {status} нет [31m")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_overload_is_of_the_receiver(status: int) -> None:
    with Receiver(answering(Answer(status=status))) as receiver:
        outcome = deliver(receiver.url)
    assert outcome == Unreachable(error=f"HTTPStatus: {status}")


def test_rejected_event_waits_as_long_as_the_receiver_asks() -> None:
    answer = Answer(status=500, headers={"Retry-After": "120"})
    with Receiver(answering(answer)) as receiver:
        outcome = deliver(receiver.url)
    assert isinstance(outcome, Rejected)
    assert outcome.retry_after_seconds == 120.0


def test_receiver_that_asks_for_a_pause_is_not_probed_before_its_end() -> None:
    times = [datetime(2026, 3, 1, 12, 0, tzinfo=UTC)]
    answer = Answer(status=503, headers={"Retry-After": "120"})

    async def act(channel: WebhookChannel) -> list[bool]:
        found = [await channel.probe()]
        await channel.deliver(queued_row())
        for seconds in (119, 2):
            times.append(times[-1] + timedelta(seconds=seconds))
            found.append(await channel.probe())
        return found

    with Receiver(answering(answer)) as receiver:
        probes = with_channel(receiver.url, act, now=lambda: times[-1])
    assert probes == [True, False, True]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 30 ", 30.0),
        ("999999", 3600.0),
        ("Sun, 01 Mar 2026 12:01:00 GMT", 60.0),
        ("Sun, 01 Mar 2026 11:59:00 GMT", 0.0),
        ("Sun, 01 Mar 2099 12:00:00 GMT", 3600.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Sun, 01 Mar 2026 12:30:00 +99999999999999999", None),
    ],
)
def test_retry_after_is_read_and_capped(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, datetime(2026, 3, 1, 12, 0, tzinfo=UTC)) == seconds


def test_nobody_listening_is_unreachable() -> None:
    outcome = deliver(f"http://127.0.0.1:{free_port()}/hook?token=hidden")
    assert isinstance(outcome, Unreachable)
    assert "hidden" not in outcome.error


def test_unknown_host_is_unreachable() -> None:
    outcome = deliver("http://receiver.invalid/hook?token=hidden")
    assert isinstance(outcome, Unreachable)
    assert "receiver.invalid" in outcome.error
    assert "hidden" not in outcome.error


def test_plain_server_behind_https_is_unreachable() -> None:
    with Receiver() as receiver:
        outcome = deliver(receiver.url.replace("http://", "https://"))
    assert isinstance(outcome, Unreachable)


def test_hanging_receiver_is_given_up_in_time() -> None:
    with Receiver() as receiver:
        receiver.answer = receiver.hang
        outcome = deliver(receiver.url, timeout_seconds=2)
    assert outcome == Unreachable(error="TimeoutError: no answer within 2s")


def test_connection_dropped_instead_of_an_answer_is_unreachable() -> None:
    with Receiver(answering(Answer(close=True))) as receiver:
        outcome = deliver(receiver.url)
    assert isinstance(outcome, Unreachable)
    # Once more on a new connection, then it is no stale connection.
    assert len(receiver.requests) == 2


def test_status_counts_although_the_body_never_ends() -> None:
    endless = Answer(status=200, headers={"Content-Length": "1000000"}, body=b"x")

    with Receiver(answering(endless)) as receiver:
        assert deliver(receiver.url) == Acknowledged()


def test_large_answer_is_quoted_shortly() -> None:
    with Receiver(answering(Answer(status=400, body=b"x" * 1_000_000))) as receiver:
        outcome = deliver(receiver.url)
    assert isinstance(outcome, Rejected)
    assert len(outcome.error) < 300


def test_connection_is_used_again() -> None:
    async def act(channel: WebhookChannel) -> None:
        for _ in range(3):
            assert await channel.deliver(queued_row()) == Acknowledged()

    with Receiver() as receiver:
        with_channel(receiver.url, act)
    assert len({request.port for request in receiver.requests}) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_refused_at_connect_time_however_it_is_named(host: str) -> None:
    with Receiver() as receiver:
        url = f"http://{host}:{receiver.port}/hook"
        outcome = deliver(url, policy=STRICT)
        assert isinstance(outcome, Unreachable)
        assert "loopback" in outcome.error or "Multiple exceptions" in outcome.error
        assert receiver.requests == []
        assert deliver(url, policy=DEV) == Acknowledged()


def test_private_address_written_as_an_ipv6_one_is_refused_at_connect_time() -> None:
    outcome = deliver("http://[::ffff:10.0.0.1]:9/hook", policy=DEV)
    assert isinstance(outcome, Unreachable)
    assert "private" in outcome.error


def test_malformed_answer_is_rejected() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        async def act(channel: WebhookChannel) -> Outcome:
            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"no http at all\r\n\r\n")
                await writer.drain()
                writer.close()

            async with await asyncio.start_server(answer, sock=server.dup()):
                return await channel.deliver(queued_row())

        outcome = with_channel(f"http://127.0.0.1:{port}/hook?token=hidden", act)
    assert isinstance(outcome, Rejected)
    assert "hidden" not in outcome.error


def test_slow_receiver_holds_only_its_own_slots() -> None:
    async def act(slow: WebhookChannel) -> Sequence[Outcome]:
        hanging = [asyncio.create_task(slow.deliver(queued_row())) for _ in range(4)]
        fast = WebhookChannel(
            url=quick.url, keys=(signing_key(SECRET),), timeout_seconds=5.0, connections=4,
            policy=DEV, now=lambda: datetime.now(UTC),
        )  # fmt: skip
        found = await asyncio.gather(*(fast.deliver(queued_row()) for _ in range(20)))
        assert not any(task.done() for task in hanging)
        await fast.close()
        receiver.released.set()
        await asyncio.gather(*hanging)
        return found

    with Receiver() as receiver, Receiver() as quick:
        receiver.answer = receiver.hang
        assert with_channel(receiver.url, act) == [Acknowledged()] * 20
