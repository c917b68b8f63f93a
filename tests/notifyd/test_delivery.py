"""The second stage's target: every send is settled once, whatever a channel does."""

import asyncio
import time
from collections.abc import Callable, Mapping

from notifyd.channels.channel import Channel
from notifyd.channels.log import LogChannel
from notifyd.delivery import ChannelTarget
from servicedesk.queue.row import Acknowledged, Outcome, QueuedRow, Rejected, Unreachable
from tests.notifyd.samples import (
    TITLE,
    TRACEPARENT,
    Lines,
    dead_letters_at,
    event,
    log_to,
    queued_row,
)


class Scripted:
    """A channel that does what it is told."""

    def __init__(self, act: Callable[[QueuedRow], Outcome] | None, seconds: float = 5.0) -> None:
        self.timeout_seconds = seconds
        self._act = act

    async def deliver(self, row: QueuedRow) -> Outcome:
        if self._act is None:
            await asyncio.Event().wait()
            raise AssertionError
        return self._act(row)

    async def probe(self) -> bool:
        return False

    async def close(self) -> None:
        """Nothing to release."""


def settled(
    channels: Mapping[str, Channel], *rows: QueuedRow, age_seconds: float = 0.0
) -> tuple[list[Outcome], Lines]:
    """The outcome of each row, in the order of the rows."""
    lines = Lines()

    async def scenario() -> list[Outcome]:
        target = target_of(channels, lines)
        found: dict[int, Outcome] = {}
        begun_at = time.time() - age_seconds
        for row in rows:
            target.send(row, lambda row, outcome: found.update({row.id: outcome}), begun_at)
        async with asyncio.timeout(10):
            while len(found) < len(rows):
                await asyncio.sleep(0.005)
        await target.close()
        return [found[row.id] for row in rows]

    return asyncio.run(scenario()), lines


def target_of(channels: Mapping[str, Channel], lines: Lines) -> ChannelTarget:
    dead_letters = dead_letters_at("127.0.0.1:1", "nobody")
    return ChannelTarget(channels=channels, dead_letters=dead_letters, log=log_to(lines))


def fail(row: QueuedRow) -> Outcome:
    raise LookupError("broken channel")


def test_fault_of_a_channel_rejects_its_row_and_is_logged_whole() -> None:
    [outcome], lines = settled({"webhook": Scripted(fail)}, queued_row())
    assert outcome == Rejected(error="LookupError: broken channel")
    [line] = lines.events("delivery_failed")
    assert "Traceback" in line["traceback"]


def test_channel_that_never_returns_is_cut_off() -> None:
    [outcome], _ = settled({"webhook": Scripted(None, seconds=0.1)}, queued_row())
    assert isinstance(outcome, Unreachable)


def test_row_that_was_held_up_past_its_lease_is_not_delivered() -> None:
    delivered: list[QueuedRow] = []

    def deliver(row: QueuedRow) -> Outcome:
        delivered.append(row)
        return Acknowledged()

    [outcome], _ = settled({"webhook": Scripted(deliver)}, queued_row(), age_seconds=6.25)
    assert isinstance(outcome, Unreachable)
    assert delivered == []


def test_receiver_that_is_no_longer_configured_rejects_and_names_those_that_are() -> None:
    channels = {"log": Scripted(None), "webhook:crm": Scripted(None)}
    [outcome], _ = settled(channels, queued_row(receiver="webhook:gone"))
    assert isinstance(outcome, Rejected)
    assert "webhook:gone is not a receiver" in outcome.error
    assert "which has log, webhook:crm;" in outcome.error
    assert "NOTIFYD_CHANNELS" in outcome.error


def test_each_row_goes_to_the_channel_of_its_receiver() -> None:
    channels = {
        "a": Scripted(lambda row: Acknowledged()),
        "b": Scripted(lambda row: Rejected(error="X: no")),
    }
    found, _ = settled(channels, *(queued_row(receiver=name) for name in "abab"))
    assert found == [Acknowledged(), Rejected(error="X: no")] * 2


def test_receivers_are_probed_by_their_channels_and_unknown_ones_pass() -> None:
    async def scenario() -> list[bool]:
        target = target_of({"a": Scripted(None)}, Lines())
        return [await target.probe("a"), await target.probe("gone")]

    assert asyncio.run(scenario()) == [False, True]


def test_every_send_is_settled_within_the_time_that_the_lease_is_made_for() -> None:
    async def scenario() -> float:
        channels = {"a": Scripted(None, seconds=4.0), "b": Scripted(None, seconds=10.0)}
        return target_of(channels, Lines()).send_seconds

    assert asyncio.run(scenario()) == 12.5


def test_log_line_tells_the_ticket_and_leaves_people_out() -> None:
    lines = Lines()
    found = event(queued_row().aggregate_id, 3, title=f"{TITLE}\nвторая строка")
    row = queued_row(found, receiver="log")
    assert asyncio.run(LogChannel(log_to(lines)).deliver(row)) == Acknowledged()
    [line] = lines.events("notification")
    assert line["title"] == f"{TITLE} вторая строка"
    assert line["ticket_id"] == str(found.aggregate_id)
    assert line["sequence"] == 3
    assert line["request_id"] == "request-1"
    assert line["traceparent"] == TRACEPARENT
    assert "anna@example.org" not in lines.getvalue()
