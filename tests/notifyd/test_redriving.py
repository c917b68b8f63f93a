"""Dead letters of the topic go back into the deliveries; what was no event is told apart."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from uuid import uuid4

import orjson
import pytest

from notifyd.letters import read_dead_letter
from servicedesk.event import MalformedEventError
from servicedesk.mending.letter import FoundRecord, found_record
from servicedesk.queue.row import Failure, QueuedRow
from tests.notifyd.receiver import Answer, Receiver, Request
from tests.notifyd.samples import (
    MOMENT,
    SECRET,
    dead_letters_at,
    event,
    execute,
    fetch,
    produce,
    queued_row,
    read_topic,
    record,
)
from tests.support.processes import PROJECT, Daemon, wait_until

StartDaemon = Callable[[str, Mapping[str, str]], Daemon]
FAILURE = Failure(
    error="HTTPStatus: 500 сломано",
    attempts=2,
    first_failed_at=datetime(2026, 3, 1, 12, 31, 0, 123_456, tzinfo=UTC),
)


def environment(database_url: str, brokers: str, name: str, **more: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "DATABASE_URL": database_url,
        "KAFKA_BROKERS": brokers,
        "KAFKA_TOPIC": name,
        "KAFKA_DLQ_TOPIC": f"{name}.dlq",
        "KAFKA_GROUP_ID": name,
        "NOTIFYD_FETCH_WAIT": "10ms",
        "NOTIFYD_RETRY_BASE": "20ms",
        "NOTIFYD_RETRY_CAP": "50ms",
        **more,
    }


def redrive(settings: Mapping[str, str], *arguments: str) -> tuple[int, list[str]]:
    """The exit code and the lines of `python -m notifyd redrive --from-topic ARGUMENTS`."""
    done = subprocess.run(
        [sys.executable, "-m", "notifyd", "redrive", "--from-topic", *arguments],
        env=dict(settings),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


def found_letters(brokers: str, name: str, count: int) -> list[FoundRecord]:
    messages = read_topic(brokers, f"{name}.dlq", f"{name}-read", count)
    return [
        found_record(
            topic=message.topic() or "",
            partition=message.partition() or 0,
            offset=message.offset() or 0,
            timestamp_ms=message.timestamp()[1],
            key=message.key(),
            value=message.value(),
            headers=message.headers() or [],  # type: ignore[arg-type] # a list, says the library
        )
        for message in messages
    ]


def test_letter_of_a_delivery_tells_the_row_it_was(kafka_brokers: str, unique_name: str) -> None:
    row = queued_row(receiver="webhook:чат")
    asyncio.run(dead_letters_at(kafka_brokers, unique_name).bury_delivery(row, FAILURE))
    [found] = found_letters(kafka_brokers, unique_name, 1)
    letter = read_dead_letter(found)
    assert letter is not None
    assert (str(letter.event_id), letter.key) == (row.event_id, row.key)
    assert (letter.error, letter.first_failed_at) == (FAILURE.error, FAILURE.first_failed_at)
    again = letter.row
    assert again is not None
    assert orjson.loads(again.headers) == orjson.loads(row.headers)
    for name in (
        "receiver",
        "aggregate_id",
        "sequence",
        "event_id",
        "event_type",
        "payload",
        "key",
    ):
        assert getattr(again, name) == getattr(row, name), name


def test_letter_of_a_delivery_that_is_too_large_has_no_row(
    kafka_brokers: str, unique_name: str
) -> None:
    row = queued_row(payload="x" * 2_000_000)
    asyncio.run(dead_letters_at(kafka_brokers, unique_name).bury_delivery(row, FAILURE))
    [found] = found_letters(kafka_brokers, unique_name, 1)
    letter = read_dead_letter(found)
    assert letter is not None
    assert (str(letter.event_id), letter.key, letter.row) == (row.event_id, row.key, None)
    assert letter.obstacle.startswith("whose value was too large")


def test_record_that_was_no_event_stays_one_whatever_headers_it_came_with(
    kafka_brokers: str, unique_name: str
) -> None:
    sound = event(uuid4())
    forged = record(sound)
    rest = forged.rest()
    headers = [
        *rest.headers,
        ("dlq_original_topic", b"t"),
        ("dlq_receiver", b"webhook"),
        ("dlq_event_id", str(sound.event_id).encode()),
        ("dlq_key", str(sound.aggregate_id).encode()),
    ]
    found = forged._replace(rest=lambda: rest._replace(headers=headers))
    error = MalformedEventError("not JSON")
    asyncio.run(dead_letters_at(kafka_brokers, unique_name).bury_record(found, error, MOMENT))
    [read] = found_letters(kafka_brokers, unique_name, 1)
    letter = read_dead_letter(read)
    assert letter is not None
    assert (letter.event_id, letter.key, letter.row) == (None, None, None)
    assert letter.error == "MalformedEventError: not JSON"


def test_dry_run_sends_no_control_sequence_of_a_letter_to_the_terminal(
    database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    row = queued_row(receiver="webhook:\x1b[2J")
    asyncio.run(dead_letters_at(kafka_brokers, unique_name).bury_delivery(row, FAILURE))
    settings = environment(database_url, kafka_brokers, unique_name)
    code, lines = redrive(settings, "--all", "--dry-run")
    assert code == 0
    assert lines[0].startswith(f"would redrive: event {row.event_id} of webhook: [2J/")
    assert not any("\x1b" in line for line in lines)


def test_what_relayd_wrote_is_not_ours() -> None:
    row = queued_row()
    found = found_record(
        topic="t",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=b"k",
        value=row.payload,
        headers=[("dlq_original_topic", b"t"), ("dlq_key", b"k"), ("dlq_event_id", b"?")],
    )
    assert read_dead_letter(found) is None


@pytest.mark.parametrize("keeps_dead_rows", [True, False])
def test_deliveries_are_redriven_from_the_topic_once(
    start_daemon: StartDaemon,
    database_url: str,
    kafka_brokers: str,
    unique_name: str,
    *,
    keeps_dead_rows: bool,
) -> None:
    tickets = [uuid4() for _ in range(3)]
    events = [event(ticket_id, n) for n in (1, 2) for ticket_id in tickets]
    produce(kafka_brokers, unique_name, [b"garbage", *events])

    def refuse(request: Request) -> Answer:
        return Answer(status=500, body="сломано".encode())

    with Receiver(refuse) as receiver:
        settings = environment(
            database_url,
            kafka_brokers,
            unique_name,
            NOTIFYD_WEBHOOK_URL=receiver.url,
            NOTIFYD_WEBHOOK_SECRET=SECRET,
            NOTIFYD_MAX_ATTEMPTS="1",
        )
        start_daemon("notifyd", settings).wait_ready()
        dead = "SELECT count(*) FROM delivery_dead"
        wait_until(lambda: fetch(database_url, dead) == [(6,)], 20, "six dead deliveries")
        read_topic(kafka_brokers, f"{unique_name}.dlq", f"{unique_name}-dlq", 7)
        if not keeps_dead_rows:
            execute(database_url, "DELETE FROM delivery_dead")
        code, lines = redrive(settings, "--all", "--dry-run")
        assert (code, len(lines)) == (0, 8)
        assert lines[-2] == "6 of 7 dead letters would be redriven; nothing was changed"

        sent: list[Request] = []
        receiver.answer = lambda request: sent.append(request) or Answer(status=204)  # type: ignore[func-returns-value] # on purpose
        code, lines = redrive(settings, "--all")
        assert (code, lines) == (
            0,
            [
                "redriven: 6 of 7 dead letters",
                "passed over: 1 no events, as they were found, and so not redrivable",
            ],
        )
        wait_until(lambda: len(sent) == 6, 20, "six redriven webhooks")
        told = {(r.headers["webhook-id"], orjson.loads(r.body)["sequence"]) for r in sent}
        assert told == {(str(one.event_id), one.sequence) for one in events}
        for ticket_id in tickets:
            mine = [orjson.loads(r.body)["sequence"] for r in sent if str(ticket_id) in str(r.body)]
            assert mine == [1, 2]

        code, lines = redrive(settings, "--all")
        assert (code, lines[0]) == (1, "redriven: 0 of 7 dead letters")
        assert "passed over: 6 redriven before" in lines
        assert fetch(database_url, dead) == [(0,)]
    noted = fetch(
        database_url, 'SELECT count(DISTINCT (topic, partition, "offset")) FROM mending_history'
    )
    assert noted == [(6,)]


def test_letter_of_one_receiver_leaves_the_other_alone(
    database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    found = event(uuid4())
    rows: list[QueuedRow] = [queued_row(found, receiver=name) for name in ("log", "webhook")]
    letters = dead_letters_at(kafka_brokers, unique_name)
    for row in rows:
        asyncio.run(letters.bury_delivery(row, FAILURE))
    settings = environment(database_url, kafka_brokers, unique_name)
    code, lines = redrive(settings, "--key", rows[0].key)
    assert (code, lines) == (0, ["redriven: 1 of 1 dead letters"])
    assert fetch(database_url, "SELECT receiver FROM delivery") == [("log",)]
    code, lines = redrive(settings, str(found.event_id))
    assert lines == ["redriven: 1 of 2 dead letters", "passed over: 1 redriven before"]
    assert fetch(database_url, "SELECT receiver FROM delivery ORDER BY id") == [
        ("log",), ("webhook",),
    ]  # fmt: skip
