"""A ticketd with a store of attachments."""

import pytest

from tests.support.storage import Storage


@pytest.fixture
def environment(storage: Storage, database_url: str) -> dict[str, str]:
    """The settings of a ticketd with a database and a bucket of the test's own."""
    return storage.settings | {"DATABASE_URL": database_url}
