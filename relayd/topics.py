"""The two topics are there, with the configured partitions, before relayd writes to them; and the
events' topic refuses a record that comes later than its sender's lease allows.

Where the cluster does not allow it, or does not answer, that is one log line: the topics may be
somebody else's business, or appear on first use.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewTopic

from relayd.verdict import kafka_text
from servicedesk.logs import Log

METADATA_SECONDS = 2.0
CREATE_SECONDS = 3.0
CLUSTER_DEFAULT = -1
# Kafka 3.6 and later (KIP-937): a record whose time is longer ago is refused at its append.
FENCE = "message.timestamp.before.max.ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """`replication` None leaves the number of replicas to the cluster's default. Nobody else sends
    a row for `fence_seconds` after its record's time."""

    brokers: str
    client_id: str
    topic: str
    dlq_topic: str
    partitions: int
    replication: int | None
    fence_seconds: float

    @property
    def fence_ms(self) -> int:
        return round(self.fence_seconds * 1000)


def ensure_topics(topics: Topics, log: Log) -> str:
    """Create what is missing, once. Returns "" when that is settled either way, or why the cluster
    could not be asked. Blocks for up to 12 seconds; any thread.
    """
    # Its connection errors are told by the producer, which has the same brokers.
    settings: dict[str, str | int | float | bool] = {
        "bootstrap.servers": topics.brokers,
        "client.id": topics.client_id,
        "log_level": 2,
    }
    admin = AdminClient(settings)
    try:
        # Of all topics: asking for one by its name may create it with the broker's defaults.
        found = admin.list_topics(timeout=METADATA_SECONDS)
    except KafkaException as error:
        return kafka_text(error.args[0])
    wanted = (topics.topic, topics.dlq_topic)
    missing = [name for name in wanted if name not in found.topics]
    if missing and found.controller_id not in found.brokers:
        log.warning("topics_not_created", topics=missing, reason="the cluster has no controller")
        return ""
    for name in missing:
        _create(admin, name, topics, log)
    _look_at_fence(admin, topics, log)
    return ""


def _create(admin: AdminClient, name: str, topics: Topics, log: Log) -> None:
    fence = {FENCE: str(topics.fence_ms)} if name == topics.topic else {}
    error = _try_to_create(admin, name, topics, fence)
    if fence and error is not None and error.code() == KafkaError.INVALID_CONFIG:
        # A broker that does not know the setting; the look at the fence says so.
        error = _try_to_create(admin, name, topics, {})
    if error is None:
        log.info("topic_created", topic=name, partitions=topics.partitions)
    # Somebody else, probably another relayd, may have been faster.
    elif error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
        log.warning("topics_not_created", topics=[name], reason=kafka_text(error))


def _try_to_create(
    admin: AdminClient, name: str, topics: Topics, settings: Mapping[str, str]
) -> KafkaError | None:
    replication = CLUSTER_DEFAULT if topics.replication is None else topics.replication
    wanted = NewTopic(name, topics.partitions, replication, config=dict(settings))
    created = admin.create_topics([wanted], request_timeout=CREATE_SECONDS)
    return _error(created[name])


def _error(future: "Future[Any]") -> KafkaError | None:
    try:
        future.result(timeout=CREATE_SECONDS + 1)
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        return reason
    except TimeoutError:
        return KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001 - librdkafka's name for it
    return None


def _look_at_fence(admin: AdminClient, topics: Topics, log: Log) -> None:
    """Say so when the topic would take a stale record, or refuse one that is in time."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topics.topic)
    asked = admin.describe_configs([resource], request_timeout=CREATE_SECONDS)[resource]
    if (error := _error(asked)) is not None:
        # The local stack's in-memory Kafka has no controller, and so never tells.
        reason = kafka_text(error)
        log.info("topic_fence_unknown", topic=topics.topic, setting=FENCE, reason=reason)
        return
    entry = asked.result().get(FENCE)
    found = None if entry is None else int(entry.value)
    if found != topics.fence_ms:
        log.warning(
            "topic_fence_differs",
            topic=topics.topic,
            setting=FENCE,
            found=found,
            wanted=topics.fence_ms,
            remedy=f"kafka-configs.sh --alter --entity-type topics --entity-name {topics.topic} "
            f"--add-config {FENCE}={topics.fence_ms}",
        )
