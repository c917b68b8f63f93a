"""What the tests of relayd as a process stand on."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.relayd.rows import Connection


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


@pytest.fixture
def environment(database_url: str, kafka_brokers: str, unique_name: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "KAFKA_BROKERS": kafka_brokers,
        "KAFKA_TOPIC": unique_name,
        "KAFKA_DLQ_TOPIC": f"{unique_name}.dlq",
    }
