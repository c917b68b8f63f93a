"""Taking events in: each once, its deliveries with it, in order; and trimming by age."""

import asyncio
import random
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from notifyd.notifications import Subscription, Subscriptions
from notifyd.record import Record, read_arrival
from notifyd.store import InboxStore, Ingested, Packed
from servicedesk.bucket import bucket_of
from servicedesk.database import SchemaError
from servicedesk.queue.statements import Pool
from tests.notifyd.samples import TITLE, event, execute, fetch, record, with_pool

EVERYTHING = Subscriptions(
    [Subscription(receiver=name, event_types=("*",)) for name in ("log", "webhook")]
)


def packed(store: InboxStore, records: Sequence[Record]) -> Packed:
    return store.pack([read_arrival(each) for each in records])


def ingest(
    url: str, batches: Sequence[Sequence[Record]], subscriptions: Subscriptions = EVERYTHING
) -> list[Ingested]:
    async def act(pool: Pool) -> list[Ingested]:
        store = InboxStore(pool, subscriptions)
        found = [await store.ingest(packed(store, batch)) for batch in batches]
        await store.close()
        return found

    return asyncio.run(with_pool(url, act))


def test_new_event_gets_a_delivery_for_each_receiver(database_url: str) -> None:
    sent = event(uuid4())
    one = record(sent, partition=2, offset=7)
    assert ingest(database_url, [[one]]) == [Ingested(fresh=1, deliveries=2)]
    rows = fetch(
        database_url,
        "SELECT receiver, aggregate_id, sequence, event_id, event_type, headers, payload, bucket"
        " FROM delivery ORDER BY id",
    )
    assert [row[0] for row in rows] == ["log", "webhook"]
    for row in rows:
        assert row[1:5] == (sent.aggregate_id, 1, sent.event_id, "ticket.created")
        assert '"offset":7' in row[5]
        assert row[6] == (one.value or b"").decode()
        assert TITLE in row[6]
        assert row[7] == bucket_of(f"{row[0]}/{sent.aggregate_id}")
    assert fetch(database_url, 'SELECT event_id, topic, partition, "offset" FROM inbox') == [
        (sent.event_id, "tickets.events", 2, 7)
    ]


def test_ids_in_upper_case_are_the_same_ids(database_url: str) -> None:
    sent = event(uuid4())
    known = record(sent)
    shouted = (known.value or b"").replace(
        str(sent.aggregate_id).encode(), str(sent.aggregate_id).upper().encode()
    )
    assert shouted != known.value
    to_one = Subscriptions([Subscription(receiver="webhook", event_types=("*",))])
    assert ingest(database_url, [[known._replace(value=shouted)], [known]], to_one) == [
        Ingested(fresh=1, deliveries=1),
        Ingested(fresh=0, deliveries=0),
    ]
    assert fetch(database_url, "SELECT aggregate_id, bucket FROM delivery") == [
        (sent.aggregate_id, bucket_of(f"webhook/{sent.aggregate_id}"))
    ]


def test_same_batch_again_queues_nothing(database_url: str) -> None:
    batch = [record(event(uuid4()), offset=n) for n in range(5)]
    first, second = ingest(database_url, [batch, batch])
    assert first == Ingested(fresh=5, deliveries=10)
    assert second == Ingested(fresh=0, deliveries=0)
    assert fetch(database_url, "SELECT count(*) FROM delivery") == [(10,)]


def test_repeat_within_a_batch_is_taken_once_in_its_first_place(database_url: str) -> None:
    ticket_id = uuid4()
    first, second = event(ticket_id, 1), event(ticket_id, 2)
    batch = [record(each, offset=n) for n, each in enumerate([first, second, first])]
    assert ingest(database_url, [batch]) == [Ingested(fresh=2, deliveries=4)]
    rows = fetch(database_url, "SELECT sequence FROM delivery WHERE receiver = 'log' ORDER BY id")
    assert rows == [(1,), (2,)]


def test_deliveries_of_a_key_have_ids_in_the_order_of_the_batch(database_url: str) -> None:
    # Enough rows for a hash join, whose output has no order of its own.
    tickets = [uuid4() for _ in range(50)]
    turns = [ticket_id for ticket_id in tickets for _ in range(20)]
    random.Random(5).shuffle(turns)
    sequences: dict[UUID, int] = {}
    batch = []
    for offset, ticket_id in enumerate(turns):
        sequences[ticket_id] = sequences.get(ticket_id, 0) + 1
        batch.append(record(event(ticket_id, sequences[ticket_id]), offset=offset))
    ingest(database_url, [batch])
    rows = fetch(
        database_url,
        "SELECT array_agg(sequence ORDER BY id) FROM delivery GROUP BY receiver, aggregate_id",
    )
    assert rows == [(list(range(1, 21)),)] * 100


def test_event_nobody_wants_is_remembered_without_deliveries(database_url: str) -> None:
    closed_only = Subscriptions([Subscription(receiver="log", event_types=("ticket.closed",))])
    created, closed = event(uuid4()), event(uuid4(), event_type="ticket.closed")
    found = ingest(database_url, [[record(created), record(closed)]], closed_only)
    assert found == [Ingested(fresh=2, deliveries=1)]
    assert fetch(database_url, "SELECT event_type FROM delivery") == [("ticket.closed",)]
    found = ingest(database_url, [[record(event(uuid4()))]], closed_only)
    assert found == [Ingested(fresh=1, deliveries=0)]


def test_two_consumers_with_the_same_records_wait_instead_of_deadlocking(
    database_url: str,
) -> None:
    low, middle, high = sorted(uuid4() for _ in range(3))
    events = [record(event(uuid4(), event_id=each)) for each in (low, middle, high)]
    batches = [events, events[::-1]]
    both_wait = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )

    async def act(pool: Pool) -> list[Ingested]:
        stores = [InboxStore(pool, EVERYTHING) for _ in batches]
        async with pool.connection() as blocker:
            # Both stop at the middle one; in the order of their batches each would by then hold
            # what the other needs next.
            await blocker.execute("BEGIN")
            await blocker.execute(
                'INSERT INTO inbox (event_id, topic, partition, "offset") VALUES (%s, %s, 0, 0)',
                (middle, "t"),
            )
            tasks = [
                asyncio.create_task(store.ingest(packed(store, batch)))
                for store, batch in zip(stores, batches, strict=True)
            ]
            while await asyncio.to_thread(fetch, database_url, both_wait) != [(2,)]:
                await asyncio.sleep(0.01)
            await blocker.execute("ROLLBACK")
        taken = list(await asyncio.gather(*tasks))
        for store in stores:
            await store.close()
        return taken

    found = asyncio.run(with_pool(database_url, act))
    assert sorted(each.fresh for each in found) == [0, 3]
    assert fetch(database_url, "SELECT count(*) FROM delivery") == [(6,)]


def test_trimming_takes_the_old_and_only_so_many(database_url: str) -> None:
    execute(
        database_url,
        'INSERT INTO inbox (event_id, topic, partition, "offset", received_at)'
        " SELECT gen_random_uuid(), 't', 0, n, now() - make_interval(hours => n)"
        " FROM generate_series(0, 9) AS n",
    )
    execute(
        database_url,
        "INSERT INTO delivery_done (event_id, receiver, aggregate_id, sequence, delivered_at)"
        " SELECT gen_random_uuid(), 'log', gen_random_uuid(), 1, now() - make_interval(hours => n)"
        " FROM generate_series(0, 9) AS n",
    )

    async def act(pool: Pool) -> list[int]:
        store = InboxStore(pool, EVERYTHING)
        age = 4.5 * 3600
        return [
            await store.trim_inbox(age, 3),
            await store.trim_inbox(age, 3),
            await store.trim_inbox(age, 3),
            await store.trim_done(age, 100),
        ]

    assert asyncio.run(with_pool(database_url, act)) == [3, 2, 0, 5]
    assert fetch(database_url, 'SELECT "offset" FROM inbox ORDER BY 1') == [
        (0,), (1,), (2,), (3,), (4,),
    ]  # fmt: skip
    assert fetch(database_url, "SELECT count(*) FROM delivery_done") == [(5,)]


def test_unmigrated_database_is_named_with_its_remedy(empty_database_url: str) -> None:
    async def act(pool: Pool) -> None:
        await InboxStore(pool, EVERYTHING).check_schema()

    with pytest.raises(SchemaError, match=r"servicedesk\.migrate"):
        asyncio.run(with_pool(empty_database_url, act))
