"""Which Kafka errors mean "this message is bad" and which mean "Kafka is away for everyone".

The wrong verdict hurts both ways: a bad message taken for an outage stops every key, an outage
taken for bad messages spends the attempts of every key. So an error is held against the message
only where the message itself is the cause; what the next message would meet as well is an outage,
also when an operator has to end it (a missing topic, a revoked right, a wrong password).
"""

from collections.abc import Mapping

from confluent_kafka import KafkaError

from servicedesk.queue.row import Rejected, Unreachable

# Sources: librdkafka 2.16, rdkafka.h and rd_kafka_handle_Produce_error; Kafka protocol guide,
# "Error Codes". librdkafka retries the transient ones itself until the delivery time-out, so most
# outages arrive here as _MSG_TIMED_OUT.

# By the name librdkafka gives the code; its own codes begin with an underscore.
REJECTED: Mapping[str, str] = {
    "MSG_SIZE_TOO_LARGE": "above message.max.bytes here, or max.message.bytes of the topic",
    "RECORD_LIST_TOO_LARGE": "a batch above the segment size; batches are small, so one row",
    "INVALID_MSG_SIZE": "its length is out of the protocol's bounds",
    "INVALID_MSG": "corrupt, or without a key in a compacted topic",
    "INVALID_RECORD": "the broker's validation, or an interceptor, refused the record",
    # The neighbour of an INVALID_RECORD in one batch. It is sound, but only a later attempt can
    # send it, and parking its key for one short wait is the way to get one.
    "_INVALID_DIFFERENT_RECORD": "shared its batch with an invalid record",
    "POLICY_VIOLATION": "a policy of the cluster refused the record",
    "_BAD_MSG": "librdkafka could not encode it",
    "_INVALID_ARG": "librdkafka refused the arguments of this message",
    "_KEY_SERIALIZATION": "the key could not be encoded",
    "_VALUE_SERIALIZATION": "the value could not be encoded",
}

UNREACHABLE: Mapping[str, str] = {
    "REQUEST_TIMED_OUT": "the replicas did not answer the leader in time",
    "LEADER_NOT_AVAILABLE": "an election is under way",
    "NOT_LEADER_FOR_PARTITION": "the leader moved; metadata is being refreshed",
    "FENCED_LEADER_EPOCH": "the leader moved; metadata is being refreshed",
    "UNKNOWN_LEADER_EPOCH": "the broker lags behind the metadata",
    "BROKER_NOT_AVAILABLE": "the broker is starting or stopping",
    "REPLICA_NOT_AVAILABLE": "the replica is starting or stopping",
    # Its time is when it was sent, so another row would be refused as well (relayd/topics.py).
    "INVALID_TIMESTAMP": "held up for too long, or the clocks of broker and relayd disagree",
    "NETWORK_EXCEPTION": "the broker lost the connection",
    "NOT_ENOUGH_REPLICAS": "fewer in-sync replicas than min.insync.replicas",
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND": "as above; the record may be there: a repeat",
    "KAFKA_STORAGE_ERROR": "the broker's disk failed; another replica takes over",
    "THROTTLING_QUOTA_EXCEEDED": "the quota concerns the client, not the record",
    "_MSG_TIMED_OUT": "not acknowledged within the delivery time-out, whatever the cause",
    "_TRANSPORT": "no connection to the broker",
    "_ALL_BROKERS_DOWN": "no connection to any broker",
    "_QUEUE_FULL": "the producer's queue did not drain in time",
    "_PURGE_QUEUE": "the producer is being made anew or stopped; never sent",
    "_PURGE_INFLIGHT": "the producer is being made anew or stopped; may be sent: a repeat",
    "_FATAL": "the producer is beyond repair and is made anew",
    # The topic and the rights on it are the same for every row, and an operator mends them.
    "_UNKNOWN_TOPIC": "the topic is missing or being created",
    "_UNKNOWN_PARTITION": "the topic's partitions are not known yet",
    "UNKNOWN_TOPIC_OR_PART": "the topic is missing or being created",
    "UNKNOWN_TOPIC_ID": "the topic was deleted and made anew",
    "TOPIC_EXCEPTION": "the name of the topic is not one Kafka allows",
    "TOPIC_AUTHORIZATION_FAILED": "no right to write to the topic",
    "CLUSTER_AUTHORIZATION_FAILED": "no right to write idempotently",
    "_AUTHENTICATION": "the credentials were refused",
    "_SSL": "the TLS handshake failed",
    "SASL_AUTHENTICATION_FAILED": "the credentials were refused",
    "UNSUPPORTED_SASL_MECHANISM": "the broker wants another mechanism",
    "SECURITY_DISABLED": "the broker's security is not set up",
    "UNSUPPORTED_COMPRESSION_TYPE": "an old broker; RELAYD_COMPRESSION=lz4 helps",
    "UNSUPPORTED_FOR_MESSAGE_FORMAT": "the topic's format is too old for headers",
    "UNSUPPORTED_VERSION": "the broker is too old for idempotent producing",
    "INVALID_REQUIRED_ACKS": "the broker does not take acks=all",
    # The producer's own state: it is made anew, see relayd/producer.py.
    "OUT_OF_ORDER_SEQUENCE_NUMBER": "the broker lost track of the producer's sequence",
    "UNKNOWN_PRODUCER_ID": "the broker forgot the producer",
    "INVALID_PRODUCER_EPOCH": "the producer's epoch was superseded",
    "INVALID_PRODUCER_ID_MAPPING": "the broker forgot the producer",
    "PRODUCER_FENCED": "the producer's epoch was superseded",
    "UNKNOWN": "the broker failed without saying why, so not about the record",
}

# What one partition may answer, or leave unanswered, while others are well. Everything else is the
# same for all of them.
OF_A_PARTITION = frozenset({
    "REQUEST_TIMED_OUT", "LEADER_NOT_AVAILABLE", "NOT_LEADER_FOR_PARTITION",
    "FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH", "BROKER_NOT_AVAILABLE",
    "REPLICA_NOT_AVAILABLE", "NETWORK_EXCEPTION", "NOT_ENOUGH_REPLICAS",
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND", "KAFKA_STORAGE_ERROR", "_MSG_TIMED_OUT", "_TRANSPORT",
})  # fmt: skip


def kafka_text(error: KafkaError) -> str:
    """ "NAME: message", as outcomes, logs and dead letters tell it."""
    return f"{error.name()}: {error.str()}"


def verdict(error: KafkaError) -> Rejected | Unreachable:
    """The outcome of a send that failed with this error.

    A code in neither table: librdkafka's own (negative) ones are about the client and count as an
    outage; a broker's is held against the row, because that costs at most the attempts of one key,
    while the other mistake would stop them all. Nothing is lost either way: should Kafka be away,
    its dead letter cannot be written, and the row stays.
    """
    name = error.name()
    bad = name in REJECTED or (error.code() > 0 and name not in UNREACHABLE)
    text = kafka_text(error)
    if bad and not error.fatal():
        return Rejected(error=text)
    if name == "INVALID_TIMESTAMP":
        # What an operator may have to mend, and would not guess.
        text += "; it was held up, or the clocks of relayd and the broker disagree"
    return Unreachable(error=text, is_everywhere=name not in OF_A_PARTITION)
