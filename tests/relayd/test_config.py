"""relayd's settings: what is wrong names its variable and what it accepts."""

import pytest

from relayd.config import Config
from servicedesk.environment import SettingError

DATABASE = {"DATABASE_URL": "postgresql://u:secret@localhost/db"}


def test_defaults_need_only_a_database() -> None:
    config = Config.from_environment(DATABASE)
    assert str(config.metrics_address) == "127.0.0.1:9090"
    assert (config.kafka_topic, config.kafka_dlq_topic) == ("tickets.events", "tickets.events.dlq")
    assert (config.delivery_seconds, config.lease_seconds) == (5, 15)
    assert (config.topic_partitions, config.topic_replication) == (12, None)
    assert config.send_seconds <= config.lease_seconds / 2


def test_password_is_not_in_the_representation() -> None:
    assert "secret" not in repr(Config.from_environment(DATABASE))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("DATABASE_URL", "", "is not set"),
        ("DATABASE_URL", "mysql://u:secret@localhost/db", "is malformed"),
        ("KAFKA_BROKERS", "kafka:9092,http://x", "HOST:PORT"),
        ("KAFKA_TOPIC", "no spaces", "letters, digits"),
        ("KAFKA_DLQ_TOPIC", "tickets.events", "KAFKA_TOPIC"),
        ("METRICS_ADDR", "localhost:http", "HOST:PORT"),
        ("RELAYD_COMPRESSION", "gzip", "one of lz4, zstd"),
        ("RELAYD_DELIVERY_TIMEOUT", "10s", "at most 5.2s"),
        ("RELAYD_DELIVERY_TIMEOUT", "10", "a duration"),
        ("RELAYD_LINGER", "5s", "from"),
        ("RELAYD_TOPIC_PARTITIONS", "0", "from 1"),
        ("RELAYD_TOPIC_REPLICATION", "0", "from 1"),
        ("RELAYD_RETRY_BASE", "2m", "RELAYD_RETRY_CAP"),
        ("RELAYD_POLL_MIN", "2s", "RELAYD_POLL_MAX"),
        ("LOG_LEVEL", "loud", "one of"),
        ("SHUTDOWN_TIMEOUT", "0s", "a duration"),
    ],
)
def test_wrong_setting_is_named_with_what_it_takes(name: str, value: str, reason: str) -> None:
    with pytest.raises(SettingError, match=reason) as caught:
        Config.from_environment(DATABASE | {name: value})
    assert str(caught.value).startswith(f"{name} ")
    assert "secret" not in str(caught.value)


def test_lease_too_short_for_the_delivery_time_out_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^RELAYD_DELIVERY_TIMEOUT .* RELAYD_LEASE at 8s"):
        Config.from_environment(DATABASE | {"RELAYD_LEASE": "8s"})


def test_linger_has_to_fit_into_the_delivery_time_out() -> None:
    with pytest.raises(SettingError, match=r"^RELAYD_LINGER .* RELAYD_DELIVERY_TIMEOUT"):
        Config.from_environment(
            DATABASE | {"RELAYD_LINGER": "200ms", "RELAYD_DELIVERY_TIMEOUT": "300ms"}
        )
