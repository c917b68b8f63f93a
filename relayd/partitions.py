"""Which partition a key goes to: what librdkafka decides for itself when it sends, told beforehand.

Only asked once a row has failed, so that no other has to wait for a time-out to find that out.
"""

from functools import lru_cache
from struct import unpack_from

MASK = 0xFFFFFFFF
SEED = 0x9747B28C
FACTOR = 0x5BD1E995


# Asked when a row is read, sent and acknowledged.
@lru_cache(maxsize=32_768)
def partition_of(key: str, partitions: int) -> int:
    """As `partitioner=murmur2_random` of librdkafka and the Java client place a key that is given,
    among so many partitions; whether they have a leader makes no difference to either."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2 of A. Appleby, 32 bits, with the seed of Kafka's `Utils.murmur2`; unsigned."""
    blocks, rest = divmod(len(data), 4)
    value = SEED ^ len(data)
    for block in unpack_from(f"<{blocks}I", data):
        mixed = block * FACTOR & MASK
        mixed = (mixed ^ mixed >> 24) * FACTOR & MASK
        value = value * FACTOR & MASK ^ mixed
    if rest:
        value = (value ^ int.from_bytes(data[-rest:], "little")) * FACTOR & MASK
    value = (value ^ value >> 13) * FACTOR & MASK
    return value ^ value >> 15
