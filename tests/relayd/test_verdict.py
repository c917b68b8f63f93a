"""Verdicts: whether an error of Kafka is the message's own or everybody's."""

import pytest
from confluent_kafka import KafkaError

from relayd.verdict import OF_A_PARTITION, REJECTED, UNREACHABLE, verdict
from servicedesk.queue.row import Rejected, Unreachable


@pytest.mark.parametrize("name", sorted(REJECTED))
def test_error_of_a_message_is_held_against_it(name: str) -> None:
    error = KafkaError(getattr(KafkaError, name))
    assert verdict(error) == Rejected(error=f"{name}: {error.str()}")


@pytest.mark.parametrize("name", sorted(UNREACHABLE))
def test_error_of_the_cluster_costs_no_attempt(name: str) -> None:
    error = KafkaError(getattr(KafkaError, name))
    outcome = verdict(error)
    assert isinstance(outcome, Unreachable)
    assert outcome.error.startswith(f"{name}: {error.str()}")


@pytest.mark.parametrize(
    ("name", "is_everywhere"),
    [
        ("_MSG_TIMED_OUT", False),
        ("NOT_ENOUGH_REPLICAS", False),
        ("TOPIC_AUTHORIZATION_FAILED", True),
        ("_PURGE_QUEUE", True),
        ("INVALID_TIMESTAMP", True),
    ],
)
def test_error_tells_whether_other_partitions_would_meet_it(
    name: str, *, is_everywhere: bool
) -> None:
    outcome = verdict(KafkaError(getattr(KafkaError, name)))
    assert isinstance(outcome, Unreachable)
    assert outcome.is_everywhere is is_everywhere


def test_what_is_of_a_partition_is_an_outage() -> None:
    assert UNREACHABLE.keys() >= OF_A_PARTITION


def test_no_error_has_two_verdicts() -> None:
    assert not REJECTED.keys() & UNREACHABLE.keys()


def test_fatal_error_is_never_held_against_a_message() -> None:
    error = KafkaError(KafkaError.INVALID_RECORD, "beyond repair", fatal=True)
    assert isinstance(verdict(error), Unreachable)


def test_unknown_broker_error_concerns_the_row_and_a_local_one_the_client() -> None:
    assert isinstance(verdict(KafkaError(KafkaError.NON_EMPTY_GROUP)), Rejected)
    assert isinstance(verdict(KafkaError(KafkaError._STATE)), Unreachable)
