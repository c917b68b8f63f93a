"""The two topics are there, with the configured partitions, before relayd writes to them.

Where the cluster does not allow it, or does not answer, that is one log line: the topics may be
somebody else's business, or appear on first use.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from relayd.verdict import kafka_text
from servicedesk.logs import Log

METADATA_SECONDS = 2.0
CREATE_SECONDS = 3.0
CLUSTER_DEFAULT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """`replication` None leaves the number of replicas to the cluster's default."""

    brokers: str
    client_id: str
    names: tuple[str, ...]
    partitions: int
    replication: int | None


def ensure_topics(topics: Topics, log: Log) -> str:
    """Create what is missing, once. Returns "" when that is settled either way, or why the cluster
    could not be asked. Blocks for up to 5 seconds; any thread.
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
    missing = [name for name in topics.names if name not in found.topics]
    if not missing:
        return ""
    if found.controller_id not in found.brokers:
        log.warning("topics_not_created", topics=missing, reason="the cluster has no controller")
        return ""
    replication = CLUSTER_DEFAULT if topics.replication is None else topics.replication
    wanted = [NewTopic(name, topics.partitions, replication) for name in missing]
    _tell(admin.create_topics(wanted, request_timeout=CREATE_SECONDS), topics, log)
    return ""


def _tell(created: Mapping[str, "Future[None]"], topics: Topics, log: Log) -> None:
    for name, future in created.items():
        try:
            future.result(timeout=CREATE_SECONDS + 1)
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            # Somebody else, probably another relayd, was faster.
            if reason.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                log.warning("topics_not_created", topics=[name], reason=kafka_text(reason))
        except TimeoutError:
            log.warning("topics_not_created", topics=[name], reason="the cluster did not answer")
        else:
            log.info("topic_created", topic=name, partitions=topics.partitions)
