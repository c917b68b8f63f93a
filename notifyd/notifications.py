"""Which events go to which receivers."""

from collections.abc import Sequence
from dataclasses import dataclass

EVERY_EVENT = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """One receiver and the event types it wants; `*` among them means all."""

    receiver: str
    event_types: tuple[str, ...]

    def wants(self, event_type: str) -> bool:
        return EVERY_EVENT in self.event_types or event_type in self.event_types


class Subscriptions:
    """All receivers, in the order in which the deliveries of one event are queued."""

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        self._subscriptions = tuple(subscriptions)

    def receivers_of(self, event_type: str) -> tuple[str, ...]:
        return tuple(
            subscription.receiver
            for subscription in self._subscriptions
            if subscription.wants(event_type)
        )
