"""The headers of a Kafka record, which may be read once only, and not always."""

from operator import methodcaller

from confluent_kafka import Message

# Not `message.headers()`: once the interpreter has optimised that call, it no longer looks whether
# the method left an exception behind, and the broken list below would be handed out at once.
READ = methodcaller("headers")


class UnreadableHeadersError(Exception):
    """The headers cannot be read; the text says why."""


def read_headers(message: Message) -> list[tuple[str, bytes | None]]:
    """Raises UnreadableHeadersError, and is not to be called with this message again then.

    Where a name is not UTF-8, confluent_kafka leaves an exception behind and keeps the list that
    it gave up half-way: what is missing in there, touched, ends the process.
    """
    try:
        headers = READ(message) or []
    except Exception as error:
        reason = type(error.__cause__ or error).__name__
        raise UnreadableHeadersError(f"headers cannot be read: {reason}") from error
    pairs = headers.items() if isinstance(headers, dict) else headers
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in pairs]
