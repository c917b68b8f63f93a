"""The database that the mending tests mend."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.servicedesk.mending.shop import Shop


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Shop(database_url, connection)
