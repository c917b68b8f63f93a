"""A Kafka cluster inside the test process whose brokers refuse requests as a test wants."""

import ctypes

from confluent_kafka import KafkaError

from deploy.local.kafka import MockCluster

PRODUCE = 0
INIT_PRODUCER_ID = 22
BROKERS = 3


class FaultyCluster(MockCluster):
    """Source: rdkafka_mock.h. Lives until the process ends, so one is shared by a module."""

    def __init__(self) -> None:
        super().__init__(BROKERS)
        self._library.rd_kafka_mock_push_request_errors_array.argtypes = [
            ctypes.c_void_p, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int),
        ]  # fmt: skip
        self._library.rd_kafka_mock_clear_request_errors.argtypes = [
            ctypes.c_void_p,
            ctypes.c_int16,
        ]

        self._library.rd_kafka_mock_broker_set_rtt.argtypes = [
            ctypes.c_void_p, ctypes.c_int32, ctypes.c_int,
        ]  # fmt: skip

    def refuse(self, api: int, *codes: int) -> None:
        """The next requests of this kind are answered with these codes, then all is well."""
        array = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, api, len(codes), array)

    def answer_after(self, seconds: float) -> None:
        """Every broker takes so long to answer, several requests at once."""
        for broker in range(1, BROKERS + 1):
            self._library.rd_kafka_mock_broker_set_rtt(self._cluster, broker, round(seconds * 1000))

    def recover(self) -> None:
        self.answer_after(0.0)
        for api in (PRODUCE, INIT_PRODUCER_ID):
            self._library.rd_kafka_mock_clear_request_errors(self._cluster, api)

    def refuse_produce(self, name: str, times: int = 1) -> None:
        self.refuse(PRODUCE, *[getattr(KafkaError, name)] * times)
