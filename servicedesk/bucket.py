"""The one function that says which bucket of the ordered queue a key belongs to."""

from zlib import crc32

BUCKETS = 64


def bucket_of(key: str) -> int:
    """0 to 63, the same in every process and version: CRC-32 of the key's UTF-8, modulo 64."""
    return crc32(key.encode()) % BUCKETS
