"""Records that only librdkafka's C interface can produce: header names that are no UTF-8."""

import ctypes
from collections.abc import Sequence

from confluent_kafka import cimpl

# Source: rdkafka.h, rd_kafka_type_t and rd_kafka_vtype_t.
PRODUCER = 0
END, TOPIC, VALUE, KEY, HEADER = 0, 1, 4, 5, 9
FLUSH_MILLISECONDS = 20_000


def produce_raw(
    brokers: str, topic: str, key: bytes, value: bytes, headers: Sequence[tuple[bytes, bytes]]
) -> None:
    """Returns when the cluster has the record."""
    # The librdkafka of the wheel is found through what is linked to it, as in deploy.local.kafka.
    library = ctypes.CDLL(cimpl.__file__)
    library.rd_kafka_conf_new.restype = library.rd_kafka_new.restype = ctypes.c_void_p
    # Only what stands before the dots of C.
    library.rd_kafka_producev.argtypes = [ctypes.c_void_p]
    library.rd_kafka_flush.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.rd_kafka_destroy.argtypes = [ctypes.c_void_p]
    reason = ctypes.create_string_buffer(512)
    settings = ctypes.c_void_p(library.rd_kafka_conf_new())
    name, size = b"bootstrap.servers", ctypes.c_size_t(len(reason))
    assert library.rd_kafka_conf_set(settings, name, brokers.encode(), reason, size) == 0, reason
    producer = library.rd_kafka_new(PRODUCER, settings, reason, size)
    assert producer, reason.value
    parts: list[object] = [TOPIC, topic.encode()]
    parts += [VALUE, value, ctypes.c_size_t(len(value)), KEY, key, ctypes.c_size_t(len(key))]
    for header, text in headers:
        parts += [HEADER, header, text, ctypes.c_ssize_t(len(text))]
    try:
        assert library.rd_kafka_producev(producer, *parts, END) == 0
        assert library.rd_kafka_flush(producer, FLUSH_MILLISECONDS) == 0
    finally:
        library.rd_kafka_destroy(producer)
