"""The settings of one drain; each daemon's Config fills them in."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from servicedesk.backoff import Backoff

PROBE = Backoff(base_seconds=0.1, cap_seconds=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainSettings:
    """Durations in seconds, bounds in rows.

    `send_seconds` is the longest a send may take until it settles and has to be well below
    `lease_seconds`. `lane_rows` and `lane_bytes`, of their payloads, bound the rows of one
    receiver in memory, `lane_in_flight` those under way to it, and `narrow_lanes` those to a
    receiver by its name where it takes fewer. `read_rows` are taken with one read, and with keys or
    receivers set aside `visited_rows` are gone through.
    `drain_seconds` bounds the time that stopping may take.
    """

    lease_seconds: float
    send_seconds: float
    drain_seconds: float
    max_attempts: int
    retry: Backoff
    read_rows: int = 4096
    visited_rows: int = 65_536
    lane_rows: int = 8192
    lane_bytes: int = 32 << 20
    lane_in_flight: int = 4096
    narrow_lanes: Mapping[str, int] = field(default_factory=dict)
    complete_rows: int = 5000
    poll_min_seconds: float = 0.01
    poll_max_seconds: float = 0.5
    look_seconds: float = 0.025
    refresh_seconds: float = 1.0
    probe: Backoff = PROBE

    def __post_init__(self) -> None:
        if self.send_seconds > self.lease_seconds / 2:
            raise ValueError("send_seconds must be at most half of lease_seconds")
