"""Buckets: the function is pinned, because rows of former versions lie in the buckets it chose."""

from collections import Counter
from uuid import UUID

import pytest

from servicedesk.bucket import BUCKETS, bucket_of
from servicedesk.queue.row import queue_key

TICKET = UUID("019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10")


@pytest.mark.parametrize(
    ("key", "bucket"),
    [
        ("", 0),
        ("019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10", 37),
        ("00000000-0000-0000-0000-000000000000", 9),
        ("webhook/019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10", 36),
        ("почта/🖨️", 61),
    ],
)
def test_bucket_of_a_key_never_changes(key: str, bucket: int) -> None:
    assert bucket_of(key) == bucket


def test_number_of_buckets_never_changes() -> None:
    assert BUCKETS == 64


def test_key_is_the_ticket_and_in_deliveries_the_receiver_and_the_ticket() -> None:
    assert queue_key(TICKET) == "019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10"
    assert queue_key(TICKET, "webhook") == "webhook/019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10"


def test_uuids_spread_over_all_buckets() -> None:
    counts = Counter(bucket_of(str(UUID(int=number * 2**64 + number))) for number in range(6400))
    assert set(counts) == set(range(BUCKETS))
    assert max(counts.values()) < 200
