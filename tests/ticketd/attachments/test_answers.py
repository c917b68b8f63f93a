"""Answers of a store as networks deliver them."""

import asyncio
from contextlib import suppress

from prometheus_client import CollectorRegistry

from tests.support.storage import Storage
from tests.ticketd.attachments.conversation import utc_now
from ticketd.attachments.bucket import Bucket
from ticketd.attachments.credentials import fixed
from ticketd.attachments.metrics import AttachmentMetrics
from ticketd.config import Config

PROLOG = b'<?xml version="1.0" encoding="UTF-8"?>\n'
ERROR = b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"
HEAD = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
# So long the rest stays away from a client that waits for it.
HELD_BACK_SECONDS = 0.2


async def answer_in_two_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD % len(PROLOG + ERROR) + PROLOG)
    with suppress(TimeoutError):
        async with asyncio.timeout(HELD_BACK_SECONDS):
            await reader.read()  # until the client hangs up, content with what it has
    writer.write(ERROR)
    writer.close()


async def test_code_of_an_error_is_found_in_whatever_pieces_it_comes(storage: Storage) -> None:
    listening = await asyncio.start_server(answer_in_two_pieces, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    values = storage.settings | {"S3_ENDPOINT": f"http://127.0.0.1:{port}"}
    values["DATABASE_URL"] = "postgresql://u:p@127.0.0.1:5432/d"
    settings = Config.from_environment(values).attachments
    assert settings is not None
    metrics = AttachmentMetrics(CollectorRegistry())
    bucket = Bucket(settings, fixed("key", "secret", None), utc_now, metrics)
    connections = asyncio.create_task(bucket.run())
    await asyncio.sleep(0)  # its first turn
    try:
        # No such key, as it has to be: the store is there.
        await bucket.probe()
    finally:
        connections.cancel()
        listening.close()
