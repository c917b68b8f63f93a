"""notifyd's settings: what they mean, and that a wrong one is named without telling a secret."""

from collections.abc import Mapping

import pytest

from notifyd.config import Config
from servicedesk.environment import SettingError
from tests.notifyd.samples import SECRET

URL = "https://hooks.example.org/in?token=hidden"
MINIMAL = {"DATABASE_URL": "postgresql://desk:hidden@localhost/desk"}
WEBHOOK = {**MINIMAL, "NOTIFYD_WEBHOOK_URL": URL, "NOTIFYD_WEBHOOK_SECRET": SECRET}
MAIL = {
    **MINIMAL,
    "NOTIFYD_SMTP_URL": "smtp://desk:p%40ss%2Fhidden@mail.example.org",
    "NOTIFYD_SMTP_FROM": "desk@example.org",
    "NOTIFYD_SMTP_TO": "one@example.org, two@example.org",
}


def refused(values: Mapping[str, str]) -> str:
    with pytest.raises(SettingError) as caught:
        Config.from_environment(values)
    assert "hidden" not in str(caught.value)
    return str(caught.value)


def test_database_url_is_all_that_must_be_set() -> None:
    config = Config.from_environment(MINIMAL)
    assert [each.receiver for each in config.subscriptions] == ["log"]
    assert str(config.metrics_address) == "127.0.0.1:9091"
    assert config.kafka.topic == "tickets.events"
    assert config.kafka.group_id == "notifyd"
    assert config.retention.inbox_seconds == 14 * 86_400
    assert refused({}).startswith("DATABASE_URL is not set")


def test_channel_with_a_url_is_on_unless_channels_are_listed() -> None:
    both = {**WEBHOOK, **MAIL}
    assert [each.receiver for each in Config.from_environment(both).subscriptions] == [
        "log", "webhook", "smtp",
    ]  # fmt: skip
    listed = Config.from_environment({**both, "NOTIFYD_CHANNELS": "smtp"})
    assert [each.receiver for each in listed.subscriptions] == ["smtp"]
    assert listed.webhooks == ()


def test_event_types_are_chosen_for_each_channel() -> None:
    values = {**WEBHOOK, "NOTIFYD_WEBHOOK_EVENTS": "ticket.created, ticket.closed"}
    log, webhook = Config.from_environment(values).subscriptions
    assert log.wants("ticket.updated")
    assert webhook.wants("ticket.closed")
    assert not webhook.wants("ticket.updated")
    assert "NOTIFYD_LOG_EVENTS" in refused({**MINIMAL, "NOTIFYD_LOG_EVENTS": "ticket created"})


def test_several_webhooks_are_several_receivers_with_keys_of_their_own() -> None:
    other = "whsec_" + "QUJD" * 8
    values = {
        **MINIMAL,
        "NOTIFYD_WEBHOOK_URL": f"crm={URL},chat=https://chat.example.org/hook",
        "NOTIFYD_WEBHOOK_SECRET": f"{SECRET}, chat={other} {SECRET}",
    }
    config = Config.from_environment(values)
    assert [each.receiver for each in config.subscriptions] == [
        "log", "webhook:crm", "webhook:chat",
    ]  # fmt: skip
    crm, chat = config.webhooks
    assert crm.url == URL
    assert crm.keys == (b"secret-secret-secret-secret",)
    assert chat.keys == (b"ABC" * 8, b"secret-secret-secret-secret")


@pytest.mark.parametrize(
    ("changes", "name", "says"),
    [
        ({"NOTIFYD_WEBHOOK_URL": f"{URL},{URL}"}, "NOTIFYD_WEBHOOK_URL", "without names"),
        ({"NOTIFYD_WEBHOOK_URL": f"a={URL},a={URL}"}, "NOTIFYD_WEBHOOK_URL", "without names"),
        ({"NOTIFYD_WEBHOOK_URL": "ftp://hidden"}, "NOTIFYD_WEBHOOK_URL", "https://"),
        ({"NOTIFYD_WEBHOOK_URL": "https:///hidden"}, "NOTIFYD_WEBHOOK_URL", "https://"),
        ({"NOTIFYD_WEBHOOK_URL": "https://hidden:0/"}, "NOTIFYD_WEBHOOK_URL", "https://"),
        ({"NOTIFYD_WEBHOOK_URL": "https://a/hid den"}, "NOTIFYD_WEBHOOK_URL", "https://"),
        ({"NOTIFYD_WEBHOOK_SECRET": ""}, "NOTIFYD_WEBHOOK_SECRET", "whsec_"),
        ({"NOTIFYD_WEBHOOK_SECRET": "hidden"}, "NOTIFYD_WEBHOOK_SECRET", "whsec_"),
        ({"NOTIFYD_WEBHOOK_SECRET": "whsec_hidden!"}, "NOTIFYD_WEBHOOK_SECRET", "not base64"),
        ({"NOTIFYD_WEBHOOK_SECRET": "whsec_aGlkZGVu"}, "NOTIFYD_WEBHOOK_SECRET", "6 bytes"),
        ({"NOTIFYD_WEBHOOK_SECRET": f"x={SECRET}"}, "NOTIFYD_WEBHOOK_SECRET", "names 'x'"),
        ({"NOTIFYD_WEBHOOK_URL": "https://10.0.0.1/"}, "NOTIFYD_WEBHOOK_URL", "private address"),
        ({"NOTIFYD_WEBHOOK_TIMEOUT": "20s"}, "NOTIFYD_WEBHOOK_TIMEOUT", "to 12s"),
        ({"KAFKA_DLQ_TOPIC": "tickets.events"}, "KAFKA_DLQ_TOPIC", "KAFKA_TOPIC"),
        ({"KAFKA_BROKERS": "kafka://broker"}, "KAFKA_BROKERS", "HOST:PORT"),
        ({"NOTIFYD_CHANNELS": "log,pigeon"}, "NOTIFYD_CHANNELS", "log, webhook, smtp"),
        ({"NOTIFYD_CHANNELS": "smtp"}, "NOTIFYD_SMTP_FROM", "is not set"),
    ],
)
def test_wrong_webhook_setting_is_named(changes: dict[str, str], name: str, says: str) -> None:
    text = refused({**WEBHOOK, **changes})
    assert text.startswith(name)
    assert says in text


def test_plain_http_is_for_dev_and_loopback_literals_too() -> None:
    plain = {**WEBHOOK, "NOTIFYD_WEBHOOK_URL": "http://127.0.0.1:9/hook"}
    assert Config.from_environment(plain).webhooks[0].url == "http://127.0.0.1:9/hook"
    assert "https://" in refused({**plain, "APP_ENV": "prod"})
    tls = {**plain, "NOTIFYD_WEBHOOK_URL": "https://127.0.0.1:9/hook", "APP_ENV": "prod"}
    assert "loopback address" in refused(tls)
    allowed = Config.from_environment({**tls, "NOTIFYD_WEBHOOK_ALLOW_PRIVATE": "true"})
    assert allowed.address_policy.allow_private


def test_mail_server_is_read_from_its_url() -> None:
    mail = Config.from_environment(MAIL).mail
    assert mail is not None
    server = mail.server
    assert (server.host, server.port, server.security) == ("mail.example.org", 587, "starttls")
    assert (server.username, server.password) == ("desk", "p@ss/hidden")
    assert mail.recipients == ("one@example.org", "two@example.org")
    tls = {**MAIL, "NOTIFYD_SMTP_URL": "smtps://mail.example.org"}
    found = Config.from_environment(tls).mail
    assert found is not None
    assert (found.server.port, found.server.security) == (465, "tls")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"NOTIFYD_SMTP_URL": "http://hidden"}, "NOTIFYD_SMTP_URL"),
        ({"NOTIFYD_SMTP_URL": "smtp://"}, "NOTIFYD_SMTP_URL"),
        ({"NOTIFYD_SMTP_FROM": "desk"}, "NOTIFYD_SMTP_FROM"),
        ({"NOTIFYD_SMTP_FROM": "a@b\r\nBcc: c@d"}, "NOTIFYD_SMTP_FROM"),
        ({"NOTIFYD_SMTP_TO": "one@example.org,<two@example.org>"}, "NOTIFYD_SMTP_TO"),
        (
            {"NOTIFYD_SMTP_URL": "smtp+insecure://mail.example.org", "APP_ENV": "prod"},
            "NOTIFYD_SMTP_URL",
        ),
    ],
)
def test_wrong_mail_setting_is_named(changes: dict[str, str], name: str) -> None:
    assert refused({**MAIL, **changes}).startswith(name)


def test_no_secret_is_in_the_text_of_the_settings() -> None:
    text = repr(Config.from_environment({**WEBHOOK, **MAIL}))
    for secret in ("hidden", "secret-secret", SECRET, "p@ss"):
        assert secret not in text
