"""The second stage's far side: a queued delivery goes to the channel of its receiver."""

import asyncio
import time
from collections.abc import Mapping

from notifyd.channels.channel import Channel, failure_text
from notifyd.dead_letters import DeadLetters
from servicedesk.logs import Log
from servicedesk.queue.row import Failure, Outcome, QueuedRow, Rejected, Unreachable
from servicedesk.queue.target import Settle

# A channel keeps its time-out by itself; one that does not is cut off at this multiple of it.
CUT_OFF = 1.25


class ChannelTarget:
    """A servicedesk.queue.target.Target. A row is one task, so that a slow receiver costs the
    others nothing; how many there are at once is for the queue to bound."""

    def __init__(
        self, *, channels: Mapping[str, Channel], dead_letters: DeadLetters, log: Log
    ) -> None:
        self._channels = channels
        self._dead_letters = dead_letters
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def send_seconds(self) -> float:
        """Within which every send is settled."""
        longest = max((each.timeout_seconds for each in self._channels.values()), default=0.0)
        return CUT_OFF * longest

    def send(self, row: QueuedRow, settle: Settle, begun_at: float) -> None:
        task = asyncio.get_running_loop().create_task(self._settled(row, settle, begun_at))
        # The loop holds tasks weakly; without this one could vanish half-way.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settled(self, row: QueuedRow, settle: Settle, begun_at: float) -> None:
        if time.time() - begun_at < self.send_seconds:
            settle(row, await self._outcome(row))
        else:
            # Stopped in between, for longer than the lease lasts: the row is somebody else's.
            settle(row, Unreachable(error=failure_text("TimeoutError", "held up before the send")))

    async def _outcome(self, row: QueuedRow) -> Outcome:
        channel = self._channels.get(row.receiver)
        if channel is None:
            # Counted, so that the deliveries of a receiver that was removed end as dead letters.
            known = ", ".join(self._channels) or "none"
            text = (
                f"{row.receiver} is not a receiver of this notifyd, which has {known}; "
                "see NOTIFYD_CHANNELS and the names in NOTIFYD_WEBHOOK_URL"
            )
            return Rejected(error=failure_text("UnknownReceiver", text))
        try:
            async with asyncio.timeout(channel.timeout_seconds * CUT_OFF):
                return await channel.deliver(row)
        except TimeoutError:
            return Unreachable(error=failure_text("TimeoutError", "the channel did not return"))
        except Exception as error:
            self._log.error(
                "delivery_failed", error=error, receiver=row.receiver, event_id=row.event_id
            )
            return Rejected(error=failure_text(type(error).__name__, error))

    def part(self, key: str) -> str:
        return ""

    def parts(self) -> int:
        return 0

    async def bury(self, row: QueuedRow, failure: Failure) -> None:
        await self._dead_letters.bury_delivery(row, failure)

    async def probe(self, receiver: str) -> bool:
        channel = self._channels.get(receiver)
        return channel is None or await channel.probe()

    async def close(self) -> None:
        """Cancel what is still under way, unsettled, and close the channels."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()
