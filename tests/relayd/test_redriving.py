"""Dead letters of the topic go back into the outbox: as the same events, in order, each once."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from confluent_kafka import OFFSET_END, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.local.apache import ApacheKafka
from relayd.dead_letter import read_dead_letter
from relayd.record import Headers
from servicedesk.mending.letter import LetterTopic
from servicedesk.mending.topic import TopicReading
from servicedesk.queue.row import QueuedRow
from tests.relayd.letters import FIRST_FAILED, failure, keep_dead, publish_letters
from tests.relayd.rows import REQUEST_ID, TRACEPARENT, insert_row, outbox_row
from tests.support.processes import PROJECT, free_port
from tests.support.raw_records import produce_raw

Connection = psycopg.Connection[tuple[object, ...]]
LARGE = '{"description":"' + "x" * 2_000_000 + '"}'


class Desk:
    """An outbox, its dead letter topic, and relayd's command line."""

    def __init__(self, connection: Connection, url: str, brokers: str, name: str) -> None:
        self.connection = connection
        self.brokers = brokers
        self.name = name
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "DATABASE_URL": url,
            "KAFKA_BROKERS": brokers,
            "KAFKA_TOPIC": name,
            "KAFKA_DLQ_TOPIC": f"{name}.dlq",
        }

    def redrive(self, *arguments: str, **changes: str) -> tuple[int, list[str]]:
        """The exit code and the lines of `python -m relayd redrive --from-topic ARGUMENTS`."""
        done = subprocess.run(
            [sys.executable, "-m", "relayd", "redrive", "--from-topic", *arguments],
            env=self.environment | changes,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, (done.stdout + done.stderr).splitlines()

    def letters(self, *rows: QueuedRow) -> None:
        publish_letters(self.brokers, self.name, [(row, failure()) for row in rows])

    def outbox(self) -> list[str]:
        found = self.connection.execute("SELECT event_id FROM outbox ORDER BY id").fetchall()
        return [str(event_id) for (event_id,) in found]

    def dead(self) -> int:
        return len(self.connection.execute("SELECT FROM outbox_dead").fetchall())


@pytest.fixture
def desk(database_url: str, kafka_brokers: str, unique_name: str) -> Iterator[Desk]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Desk(connection, database_url, kafka_brokers, unique_name)


def ids(rows: Sequence[QueuedRow]) -> list[str]:
    return [row.event_id for row in rows]


def test_letter_without_a_dead_row_becomes_the_row_it_was_and_only_once(desk: Desk) -> None:
    row = outbox_row()
    desk.letters(row)
    assert desk.redrive("--all") == (0, ["redriven: 1 of 1 dead letters"])
    columns = (
        "bucket, aggregate_id, sequence, event_id, event_type, payload, created_at,"
        " headers::jsonb = jsonb_build_object('request_id', %s::text, 'traceparent', %s::text)"
    )
    found = desk.connection.execute(
        f"SELECT {columns} FROM outbox".encode(), (REQUEST_ID, TRACEPARENT)
    ).fetchall()
    assert found == [
        (row.bucket, row.aggregate_id, 1, UUID(row.event_id), row.event_type, row.payload.decode(),
         row.created_at, True)
    ]  # fmt: skip
    assert desk.redrive("--all") == (
        1, ["redriven: 0 of 1 dead letters", "passed over: 1 redriven before"],
    )  # fmt: skip
    # Not even when the row has left the outbox.
    desk.connection.execute("DELETE FROM outbox")
    assert desk.redrive(str(row.event_id))[0] == 1
    assert desk.outbox() == []
    [noted] = desk.connection.execute(
        'SELECT act, event_id, key, error, first_failed_at, selection, topic, "offset"'
        " FROM mending_history"
    ).fetchall()
    assert noted == (
        "redrive", UUID(row.event_id), row.key, failure().error, FIRST_FAILED, "--from-topic --all",
        f"{desk.name}.dlq", 0,
    )  # fmt: skip


def test_dead_row_that_is_still_there_moves_and_its_letter_adds_nothing(desk: Desk) -> None:
    kept, gone = outbox_row(row_id=1), outbox_row(row_id=2)
    desk.letters(kept, gone)
    keep_dead(desk.connection, kept, failure())
    desk.connection.execute("UPDATE outbox_dead SET payload = '{\"mended\": true}'")
    assert desk.redrive("--all")[0] == 0
    assert sorted(desk.outbox()) == sorted(ids([kept, gone]))
    assert desk.dead() == 0
    found = desk.connection.execute(
        "SELECT payload FROM outbox WHERE event_id = %s", (kept.event_id,)
    ).fetchall()
    assert found == [('{"mended": true}',)]
    assert desk.redrive("--all")[0] == 1
    assert len(desk.outbox()) == 2


def test_death_redriven_from_its_dead_row_is_not_redriven_from_its_letter(desk: Desk) -> None:
    row = outbox_row()
    # Twice, as after a crash between the letter and the move of its row.
    desk.letters(row, row)
    keep_dead(desk.connection, row, failure())
    done = subprocess.run(
        [sys.executable, "-m", "relayd", "redrive", "--all"],
        env=desk.environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "redriven: 1 of 1 dead rows\n"
    desk.connection.execute("DELETE FROM outbox")
    code, lines = desk.redrive("--all")
    assert (code, lines[1:]) == (1, ["passed over: 2 redriven before"])
    assert desk.outbox() == []


def test_two_letters_of_one_death_are_one_row(desk: Desk) -> None:
    row = outbox_row()
    desk.letters(row, row)
    code, lines = desk.redrive("--all", "--dry-run")
    assert (code, lines[1:]) == (
        0,
        [
            "1 of 2 dead letters would be redriven; nothing was changed",
            "passed over: 1 redriven before",
        ],
    )
    assert desk.redrive("--all") == (
        0, ["redriven: 1 of 2 dead letters", "passed over: 1 redriven before"],
    )  # fmt: skip
    assert desk.outbox() == [row.event_id]


def test_event_that_died_again_is_redriven_again(desk: Desk) -> None:
    row = outbox_row()
    desk.letters(row)
    assert desk.redrive("--all")[0] == 0
    desk.connection.execute("DELETE FROM outbox")
    later = failure(first_failed_at=FIRST_FAILED + timedelta(microseconds=1))
    publish_letters(desk.brokers, desk.name, [(row, later)])
    keep_dead(desk.connection, row, later)
    assert desk.redrive("--all") == (
        0, ["redriven: 1 of 2 dead letters", "passed over: 1 redriven before"],
    )  # fmt: skip
    assert desk.outbox() == [row.event_id]
    assert desk.dead() == 0


def test_letter_of_an_earlier_death_does_not_move_the_row_of_a_later_one(desk: Desk) -> None:
    row = outbox_row()
    desk.letters(row)
    keep_dead(desk.connection, row, failure(first_failed_at=FIRST_FAILED + timedelta(hours=1)))
    assert desk.redrive("--all") == (
        1, ["redriven: 0 of 1 dead letters", "passed over: 1 redriven before"],
    )  # fmt: skip
    assert (desk.outbox(), desk.dead()) == ([], 1)


def test_row_that_is_parked_still_is_not_doubled(desk: Desk) -> None:
    row = outbox_row()
    desk.letters(row)
    row_id = insert_row(desk.connection, row)
    desk.connection.execute(
        "INSERT INTO outbox_parked (bucket, key, first_id, attempts, next_at, error)"
        " VALUES (%s, %s, %s, 9, now() + interval '1 hour', 'Bad: worse')",
        (row.bucket, row.key, row_id),
    )
    assert desk.redrive("--all") == (
        1, ["redriven: 0 of 1 dead letters", "passed over: 1 still in the queue, parked"],
    )  # fmt: skip
    assert desk.outbox() == [row.event_id]


def test_letter_without_its_value_is_redriven_from_its_dead_row_only(desk: Desk) -> None:
    row = outbox_row(payload=LARGE)
    desk.letters(row)
    assert desk.redrive("--all") == (
        1,
        [
            "redriven: 0 of 1 dead letters",
            "passed over: 1 whose value was too large for a letter, and whose dead row is gone",
        ],
    )
    keep_dead(desk.connection, row, failure())
    assert desk.redrive("--all") == (0, ["redriven: 1 of 1 dead letters"])
    found = desk.connection.execute("SELECT payload FROM outbox").fetchall()
    assert found == [(LARGE,)]


def test_letters_are_selected_from_their_headers(desk: Desk) -> None:
    one, two, three = (outbox_row() for _ in range(3))
    worse = failure("MSG_SIZE_TOO_LARGE: no")
    publish_letters(desk.brokers, desk.name, [(one, failure()), (two, worse), (three, failure())])
    assert desk.redrive("--error", "INVALID_RECORD", "--until", "1h")[0] == 1
    code, lines = desk.redrive("--error", "INVALID_RECORD", "--key", one.key, "--since", "1h")
    assert (code, lines) == (0, ["redriven: 1 of 1 dead letters"])
    assert desk.redrive(str(two.event_id), "--dry-run")[1][0].startswith(
        f"would redrive: event {two.event_id} of {two.key}: MSG_SIZE_TOO_LARGE: no"
    )
    assert desk.outbox() == [one.event_id]
    assert desk.redrive(str(two.event_id), "--id", str(three.event_id))[0] == 0
    assert set(desk.outbox()) == set(ids([one, two, three]))


def test_letters_of_a_key_keep_their_order_over_batches_and_beside_dead_rows(desk: Desk) -> None:
    ticket = uuid4()
    rows = [outbox_row(row_id=n, ticket=ticket, sequence=n) for n in range(1, 251)]
    desk.letters(*rows)
    # Some of them still have their dead rows, which must not come before or after the others.
    for row in rows[::7]:
        keep_dead(desk.connection, row, failure())
    assert desk.redrive("--all") == (0, ["redriven: 250 of 250 dead letters"])
    assert desk.outbox() == ids(rows)
    assert desk.dead() == 0


def test_two_redriving_at_once_put_each_back_once(desk: Desk) -> None:
    rows = [outbox_row(row_id=n) for n in range(1, 121)]
    desk.letters(*rows)
    for row in rows[::2]:
        keep_dead(desk.connection, row, failure())
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(desk.redrive, "--all") for _ in range(2)]
        counts = [int(one.result()[1][0].split()[1]) for one in both]
    assert sum(counts) == 120
    assert sorted(desk.outbox()) == sorted(ids(rows))


def test_what_relayd_did_not_write_is_passed_over(desk: Desk) -> None:
    desk.letters(outbox_row())
    producer = Producer({"bootstrap.servers": desk.brokers})
    of_notifyd: Headers = [("dlq_original_topic", b"t"), ("dlq_original_offset", b"7")]
    producer.produce(f"{desk.name}.dlq", value=b"garbage", headers=of_notifyd)
    producer.produce(f"{desk.name}.dlq", value=b"no letter at all")
    contradicting: Headers = [
        ("dlq_original_topic", b"t"),
        ("dlq_key", str(uuid4()).encode()),
        ("dlq_event_id", str(uuid4()).encode()),
        ("dlq_first_failed_at", b"2025-01-02T03:04:05Z"),
    ]
    row = outbox_row()
    producer.produce(f"{desk.name}.dlq", value=row.payload, headers=contradicting)
    producer.produce(f"{desk.name}.dlq", value=b"{}", headers=contradicting[:2])
    assert producer.flush(10) == 0
    code, lines = desk.redrive("--all")
    assert (code, lines[0]) == (0, "redriven: 1 of 3 dead letters")
    assert "passed over: 2 of another daemon, or no dead letters" in lines
    assert any("whose value cannot be read: aggregate is not ticket" in line for line in lines)


def test_letter_that_nobody_could_store_is_passed_over_and_holds_nothing_back(desk: Desk) -> None:
    producer = Producer({"bootstrap.servers": desk.brokers})
    poisoned: Headers = [
        ("dlq_original_topic", b"t"),
        ("dlq_key", b"\x00"),
        ("dlq_event_id", str(uuid4()).encode()),
        ("dlq_first_failed_at", b"2025-01-02T03:04:05Z"),
        ("dlq_error_message", b"\x00"),
    ]
    producer.produce(f"{desk.name}.dlq", value=b"garbage", headers=poisoned)
    assert producer.flush(10) == 0
    row = outbox_row()
    desk.letters(row)
    code, lines = desk.redrive("--all")
    assert (code, lines[0]) == (0, "redriven: 1 of 2 dead letters")
    assert desk.outbox() == [row.event_id]


def test_topic_that_is_missing_and_brokers_that_are_away_are_one_line_with_a_remedy(
    desk: Desk,
) -> None:
    code, [line] = desk.redrive("--all")
    assert code == 1
    assert line.startswith(f"error: Kafka at {desk.brokers} has no topic {desk.name}.dlq: ")
    assert "KAFKA_DLQ_TOPIC" in line
    code, [line] = desk.redrive("--all", KAFKA_BROKERS=f"127.0.0.1:{free_port()}")
    assert code == 1
    assert "cannot be read (_TRANSPORT)" in line
    assert "KAFKA_BROKERS" in line
    code, [line] = desk.redrive("--all", KAFKA_BROKERS="nonsense:port")
    assert (code, line.partition(" has")[0]) == (2, "error: KAFKA_BROKERS")


def test_reading_ends_where_the_topic_ended_when_it_began(desk: Desk) -> None:
    rows = [outbox_row() for _ in range(30)]
    desk.letters(*rows)
    source = LetterTopic(
        brokers=desk.brokers, client_id="test", topic=f"{desk.name}.dlq", read=read_dead_letter
    )
    with TopicReading(source) as reading:
        assert reading.total == 30
        desk.letters(*[outbox_row() for _ in range(20)])
        batches = list(reading.batches(10))
    found = [record.told["dlq_event_id"] for batch in batches for record in batch]
    assert sorted(found) == sorted(str(row.event_id) for row in rows)
    assert max(map(len, batches)) <= 10


def test_letter_with_a_header_name_that_is_no_utf_8_is_passed_over(desk: Desk) -> None:
    """The first, and the last, when the interpreter has optimised the reading of headers."""
    odd = [(b"dlq_original_topic", b"t"), (b"na\xefve", b"x")]
    rows = [outbox_row() for _ in range(100)]
    produce_raw(desk.brokers, f"{desk.name}.dlq", b"key", b"value", odd)
    desk.letters(*rows)
    produce_raw(desk.brokers, f"{desk.name}.dlq", b"key", b"value", odd)
    source = LetterTopic(
        brokers=desk.brokers, client_id="test", topic=f"{desk.name}.dlq", read=read_dead_letter
    )
    with TopicReading(source) as reading:
        found = [record for batch in reading.batches(10) for record in batch]
    unread = [record for record in found if not record.told]
    assert [(each.key, each.value) for each in unread] == [(b"key", b"value")] * 2
    assert [read_dead_letter(each) for each in unread] == [None, None]
    told = {each.told["dlq_event_id"] for each in found if each.told}
    assert told == {row.event_id for row in rows}


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_letters_on_apache_kafka_are_redriven_up_to_its_end_and_without_those_that_are_gone(
    apache_kafka: ApacheKafka, database_url: str, unique_name: str
) -> None:
    brokers = apache_kafka.bootstrap_servers
    apache_kafka.create_topic(f"{unique_name}.dlq", 3)
    with psycopg.connect(database_url, autocommit=True) as connection:
        desk = Desk(connection, database_url, brokers, unique_name)
        ticket = uuid4()
        gone = [outbox_row(ticket=ticket, sequence=n) for n in (1, 2)]
        desk.letters(*gone)
        places = [TopicPartition(f"{unique_name}.dlq", each, OFFSET_END) for each in range(3)]
        admin = AdminClient({"bootstrap.servers": brokers})
        for future in admin.delete_records(places).values():
            future.result(10)
        assert desk.redrive("--all")[1] == ["no dead letters of this queue are selected"]
        rows = [outbox_row(ticket=ticket, sequence=n) for n in (3, 4, 5)]
        desk.letters(*rows)
        assert desk.redrive("--all") == (0, ["redriven: 3 of 3 dead letters"])
        assert desk.redrive("--all")[0] == 1
        assert desk.outbox() == ids(rows)
