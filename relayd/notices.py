"""What librdkafka has to say, told in the log without repeating itself.

During an outage it reports every failed connection of every broker, several a second, for hours.
"""

import logging
from collections.abc import Callable

from confluent_kafka import KafkaError

from relayd.verdict import kafka_text
from servicedesk.logs import Log

SILENCE_SECONDS = 60.0


class Notices:
    """Writes one line for each kind of notice and `SILENCE_SECONDS`, with the number left out."""

    def __init__(self, log: Log, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._said_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def say(self, level: str, event: str, kind: str, **fields: object) -> None:
        """`kind` tells notices apart that share the event's name."""
        now, key = self._clock(), f"{event} {kind}"
        said_at = self._said_at.get(key)
        if said_at is not None and now - said_at < SILENCE_SECONDS:
            self._left_out[key] = self._left_out.get(key, 0) + 1
            return
        self._said_at[key] = now
        self._log.write(level, event, {"left_out": self._left_out.pop(key, 0), **fields})

    def forget(self) -> None:
        """After a recovery: what goes wrong next is news again."""
        self._said_at.clear()
        self._left_out.clear()

    def kafka_error(self, error: KafkaError) -> None:
        """librdkafka's error callback: its connections, and everything of no one message."""
        level = "error" if error.fatal() else "warning"
        self.say(level, "kafka_error", error.name(), error=kafka_text(error))

    def throttled(self, broker: str, seconds: float) -> None:
        fields = {"broker": broker, "throttle_seconds": seconds}
        self.say("warning", "kafka_throttled", broker, **fields)


class LibrdkafkaHandler(logging.Handler):
    """Takes librdkafka's own log lines, whose first word names the facility."""

    def __init__(self, notices: Notices) -> None:
        super().__init__(logging.WARNING)
        self._notices = notices

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        facility = message.partition(" ")[0]
        # A failed connection is told by the error callback as well.
        if facility != "FAIL":
            level = "error" if record.levelno >= logging.ERROR else "warning"
            self._notices.say(level, "librdkafka", facility, message=message)
