"""notifyd's settings, read once from environment variables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from notifyd.channels.addresses import AddressPolicy
from notifyd.letters import read_dead_letter
from notifyd.notifications import EVERY_EVENT, Subscription
from notifyd.receivers import MailSettings, WebhookSettings, entries, read_mail, read_webhooks
from servicedesk.backoff import Backoff
from servicedesk.environment import Address, Environment, SettingError
from servicedesk.event import EVENT_TYPE
from servicedesk.logs import LEVEL_NAMES
from servicedesk.mending.letter import LetterTopic

Channel = Literal["log", "webhook", "smtp"]
CHANNELS: tuple[Channel, ...] = ("log", "webhook", "smtp")
DAY_SECONDS = 86_400.0
# With what a channel may take beyond its time-out this stays below half of the lease.
LEASE_SHARE = 0.4

BROKERS = "localhost:9092"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    brokers: str
    topic: str
    dlq_topic: str
    group_id: str
    client_id: str
    fetch_wait_ms: int
    session_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """How the queue of deliveries is drained; see servicedesk.queue.settings."""

    lease_seconds: float
    batch_rows: int
    receiver_in_flight: int
    max_attempts: int
    retry: Backoff
    poll_min_seconds: float
    poll_max_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long things are kept that nothing waits for any more."""

    inbox_seconds: float
    done_seconds: float
    dead_seconds: float
    history_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    app_env: str
    log_level: str
    metrics_address: Address
    database_url: str = field(repr=False)
    shutdown_seconds: float
    kafka: KafkaSettings
    ingest_batch: int
    retention: Retention
    delivery: DeliverySettings
    subscriptions: tuple[Subscription, ...]
    log_channel: bool
    webhooks: tuple[WebhookSettings, ...]
    webhook_timeout_seconds: float
    address_policy: AddressPolicy
    mail: MailSettings | None

    @classmethod
    def from_environment(cls, values: Mapping[str, str]) -> "Config":
        """Raises SettingError; its text names the variable and never repeats a secret."""
        env = Environment(values)
        # Any other word than `dev`, misspelt ones included, means the strict rules.
        app_env = env.text("APP_ENV", "dev")
        channels = _channels(env)
        policy = AddressPolicy(
            allow_loopback=app_env == "dev",
            allow_private=env.flag("NOTIFYD_WEBHOOK_ALLOW_PRIVATE", default=False),
        )
        webhooks = read_webhooks(env, app_env, policy) if "webhook" in channels else ()
        delivery = _delivery(env)
        return cls(
            app_env=app_env,
            log_level=env.choice("LOG_LEVEL", "info", LEVEL_NAMES),
            metrics_address=env.address("METRICS_ADDR", "127.0.0.1:9091"),
            database_url=database_url(env),
            shutdown_seconds=env.seconds("SHUTDOWN_TIMEOUT", 10.0, minimum=0.1, maximum=3600.0),
            kafka=read_kafka(env),
            ingest_batch=env.integer("NOTIFYD_INGEST_BATCH", 2_000, minimum=1, maximum=10_000),
            retention=_retention(env),
            delivery=delivery,
            subscriptions=_subscriptions(env, channels, webhooks),
            log_channel="log" in channels,
            webhooks=webhooks,
            webhook_timeout_seconds=_timeout(env, "NOTIFYD_WEBHOOK_TIMEOUT", 10.0, delivery),
            address_policy=policy,
            mail=read_mail(env, app_env, _timeout(env, "NOTIFYD_SMTP_TIMEOUT", 10.0, delivery))
            if "smtp" in channels
            else None,
        )


def database_url(env: Environment) -> str:
    """The one setting that the mending commands need too. Raises SettingError."""
    example = "postgresql://user:password@host:5432/database"
    url = env.url("DATABASE_URL", ("postgresql", "postgres"), example=example)
    return url or env.required("DATABASE_URL", f"a PostgreSQL URL such as {example}")


def letter_topic(env: Environment) -> LetterTopic:
    """Where the dead letters are, for the mending commands. Raises SettingError."""
    kafka = read_kafka(env)
    return LetterTopic(
        brokers=kafka.brokers,
        client_id=kafka.client_id,
        topic=kafka.dlq_topic,
        read=read_dead_letter,
    )


def _channels(env: Environment) -> tuple[Channel, ...]:
    """Without NOTIFYD_CHANNELS: the log, and whatever has a URL."""
    default: tuple[Channel, ...] = ("log",)
    if env.optional("NOTIFYD_WEBHOOK_URL"):
        default += ("webhook",)
    if env.optional("NOTIFYD_SMTP_URL"):
        default += ("smtp",)
    return env.choices("NOTIFYD_CHANNELS", default, CHANNELS)


def read_kafka(env: Environment) -> KafkaSettings:
    """Raises SettingError."""
    topic = env.kafka_name("KAFKA_TOPIC", "tickets.events")
    dlq_topic = env.kafka_name("KAFKA_DLQ_TOPIC", "tickets.events.dlq")
    if topic == dlq_topic:
        raise SettingError("KAFKA_DLQ_TOPIC", f"is {topic!r}, which is KAFKA_TOPIC; name another")
    return KafkaSettings(
        brokers=env.kafka_brokers("KAFKA_BROKERS") or BROKERS,
        topic=topic,
        dlq_topic=dlq_topic,
        group_id=env.kafka_name("KAFKA_GROUP_ID", "notifyd"),
        client_id=env.kafka_name("KAFKA_CLIENT_ID", "notifyd"),
        fetch_wait_ms=_milliseconds(env, "NOTIFYD_FETCH_WAIT", 0.05, minimum=0.001, maximum=5.0),
        session_ms=_milliseconds(env, "NOTIFYD_SESSION_TIMEOUT", 10.0, minimum=1.0, maximum=300.0),
    )


def _milliseconds(
    env: Environment, name: str, default: float, *, minimum: float, maximum: float
) -> int:
    return round(env.seconds(name, default, minimum=minimum, maximum=maximum) * 1000)


def _delivery(env: Environment) -> DeliverySettings:
    return DeliverySettings(
        lease_seconds=env.seconds("NOTIFYD_LEASE", 30.0, minimum=1.0, maximum=3600.0),
        batch_rows=env.integer("NOTIFYD_BATCH_SIZE", 1000, minimum=1, maximum=10_000),
        receiver_in_flight=env.integer("NOTIFYD_RECEIVER_IN_FLIGHT", 32, minimum=1, maximum=10_000),
        max_attempts=env.integer("NOTIFYD_MAX_ATTEMPTS", 10, minimum=1, maximum=1000),
        retry=Backoff(
            base_seconds=env.seconds("NOTIFYD_RETRY_BASE", 1.0),
            cap_seconds=env.seconds("NOTIFYD_RETRY_CAP", 300.0),
        ),
        poll_min_seconds=env.seconds("NOTIFYD_POLL_MIN", 0.02, maximum=60.0),
        poll_max_seconds=env.seconds("NOTIFYD_POLL_MAX", 1.0, maximum=60.0),
    )


def _retention(env: Environment) -> Retention:
    def days(name: str, default: float) -> float:
        return env.seconds(f"NOTIFYD_{name}_RETENTION", default * DAY_SECONDS, minimum=60.0)

    return Retention(
        inbox_seconds=days("INBOX", 14),
        done_seconds=days("DONE", 7),
        dead_seconds=days("DEAD", 30),
        history_seconds=days("HISTORY", 90),
    )


def _timeout(env: Environment, name: str, default: float, delivery: DeliverySettings) -> float:
    """A delivery must be over well before the lease is, or two workers could send one row."""
    limit = delivery.lease_seconds * LEASE_SHARE
    if env.optional(name) is None:
        return min(default, limit)
    return env.seconds(name, default, minimum=0.01, maximum=limit)


def _subscriptions(
    env: Environment, channels: tuple[Channel, ...], webhooks: tuple[WebhookSettings, ...]
) -> tuple[Subscription, ...]:
    found = []
    for channel in channels:
        wanted = _event_types(env, f"NOTIFYD_{channel.upper()}_EVENTS")
        names = [hook.receiver for hook in webhooks] if channel == "webhook" else [channel]
        found += [Subscription(receiver=name, event_types=wanted) for name in names]
    return tuple(found)


def _event_types(env: Environment, name: str) -> tuple[str, ...]:
    types = entries(env.text(name, EVERY_EVENT))
    wrong = next(
        (each for each in types if each != EVERY_EVENT and not EVENT_TYPE.fullmatch(each)), None
    )
    if wrong is not None:
        raise SettingError(
            name, f"has {wrong!r}; it takes event types such as ticket.created,ticket.closed, or *"
        )
    return types
