"""How much of a topic a consumer group has not taken in yet."""

from confluent_kafka import Consumer, KafkaException, TopicPartition

TIMEOUT_SECONDS = 3.0


class Backlog:
    """Asks the cluster as a reader of the group's offsets; it never joins the group."""

    def __init__(self, brokers: str, group: str, topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(
            {"bootstrap.servers": brokers, "group.id": group, "log_level": 0},
        )

    def records(self) -> int | None:
        """Records after the committed offsets, over all partitions; None when the cluster does not
        answer."""
        try:
            metadata = self._consumer.list_topics(self._topic, timeout=TIMEOUT_SECONDS)
            partitions = [
                TopicPartition(self._topic, number)
                for number in metadata.topics[self._topic].partitions
            ]
            committed = self._consumer.committed(partitions, timeout=TIMEOUT_SECONDS)
            return sum(self._after(partition) for partition in committed)
        except KafkaException:
            return None

    def close(self) -> None:
        self._consumer.close()

    def _after(self, partition: TopicPartition) -> int:
        low, high = self._consumer.get_watermark_offsets(partition, timeout=TIMEOUT_SECONDS)
        return int(high - max(low, partition.offset))
