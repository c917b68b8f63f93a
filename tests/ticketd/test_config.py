"""The settings of ticketd."""

from pathlib import Path

import pytest

from servicedesk.environment import SettingError
from ticketd.config import Config

SECRET = "s" * 32


def test_defaults_are_for_a_laptop() -> None:
    config = Config.from_environment({})
    assert str(config.http_address) == "127.0.0.1:8080"
    assert str(config.metrics_address) == "127.0.0.1:9089"
    assert config.database_url is None
    assert config.tokens_file is None
    assert config.workers == 1
    assert config.require_if_match
    assert config.access_log
    assert config.shutdown_seconds == 10.0


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"APP_ENV": "production"}, "TICKETD_CURSOR_SECRET"),
        ({"TICKETD_CURSOR_SECRET": "short"}, "TICKETD_CURSOR_SECRET"),
        ({"HTTP_ADDR": "0.0.0.0:8080"}, "TICKETD_AUTH"),
        ({"HTTP_ADDR": "[::]:8080"}, "TICKETD_AUTH"),
        ({"TICKETD_AUTH": "tokens"}, "TICKETD_TOKENS_FILE"),
        ({"TICKETD_AUTH": "basic"}, "TICKETD_AUTH"),
        ({"TICKETD_WORKERS": "2"}, "TICKETD_WORKERS"),
        ({"TICKETD_WORKERS": "0"}, "TICKETD_WORKERS"),
        ({"TICKETD_QUEUE_LIMIT": "-1"}, "TICKETD_QUEUE_LIMIT"),
        ({"TICKETD_REQUEST_TIMEOUT": "5"}, "TICKETD_REQUEST_TIMEOUT"),
        ({"SHUTDOWN_TIMEOUT": "0s"}, "SHUTDOWN_TIMEOUT"),
        ({"TICKETD_REQUIRE_IF_MATCH": "maybe"}, "TICKETD_REQUIRE_IF_MATCH"),
        ({"TICKETD_QUOTA": "100"}, "TICKETD_QUOTA"),
        ({"TICKETD_QUOTA": "0/s"}, "TICKETD_QUOTA"),
        ({"TICKETD_QUOTA": "1/25h"}, "TICKETD_QUOTA"),
        ({"TICKETD_CACHE": "true"}, "TICKETD_CACHE"),
        ({"REDIS_URL": "http://127.0.0.1:6379"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://:secret@127.0.0.1/0?socket_timeout=9"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://127.0.0.1/mine"}, "REDIS_URL"),
        ({"TICKETD_IDEMPOTENCY_RETENTION": "1s"}, "TICKETD_IDEMPOTENCY_RETENTION"),
        ({"DATABASE_URL": "mysql://u:p@h/d"}, "DATABASE_URL"),
        ({"HTTP_ADDR": "127.0.0.1:9089"}, "METRICS_ADDR"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
    ],
)
def test_wrong_setting_is_named(values: dict[str, str], named: str) -> None:
    with pytest.raises(SettingError) as refused:
        Config.from_environment(values)
    assert refused.value.name == named


@pytest.mark.parametrize(
    ("values", "tokens_file"),
    [
        ({"TICKETD_TOKENS_FILE": "/t"}, Path("/t")),
        ({"TICKETD_TOKENS_FILE": "/t", "TICKETD_AUTH": "tokens"}, Path("/t")),
        ({"TICKETD_TOKENS_FILE": "/t", "HTTP_ADDR": "0.0.0.0:1"}, Path("/t")),
        ({"TICKETD_TOKENS_FILE": "/t", "TICKETD_AUTH": "none"}, None),
        ({"TICKETD_AUTH": "none", "HTTP_ADDR": "0.0.0.0:1"}, None),
    ],
)
def test_tokens_are_asked_for_when_there_is_a_file(
    values: dict[str, str], tokens_file: Path | None
) -> None:
    assert Config.from_environment(values).tokens_file == tokens_file


def test_secrets_are_not_in_the_text_of_the_settings() -> None:
    values = {"DATABASE_URL": "postgresql://u:hush@h/d", "TICKETD_CURSOR_SECRET": SECRET}
    shown = repr(Config.from_environment(values | {"APP_ENV": "production"}))
    assert "hush" not in shown
    assert SECRET not in shown
