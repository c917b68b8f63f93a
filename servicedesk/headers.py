"""The headers of a Kafka record, which may be read once only, and not always."""

from confluent_kafka import Message


class UnreadableHeadersError(Exception):
    """The headers cannot be read; the text says why."""


def read_headers(message: Message) -> list[tuple[str, bytes | None]]:
    """Raises UnreadableHeadersError, and is not to be called with this message again then.

    confluent_kafka raises SystemError where a name is not UTF-8, and when it is asked again hands
    out the list that it gave up half-way: what is missing in there crashes the process.
    """
    try:
        headers = message.headers() or []
    except Exception as error:
        raise UnreadableHeadersError(
            f"headers cannot be read: {type(error.__cause__ or error).__name__}"
        ) from error
    pairs = headers.items() if isinstance(headers, dict) else headers
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in pairs]
