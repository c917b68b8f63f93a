"""Blocks of random bytes: handed out whole, in order, once."""

import os

from ticketd.randomness import BLOCK_BYTES, RandomBlocks


def test_every_byte_is_handed_out_once_and_in_order() -> None:
    fetched: list[bytes] = []

    def fetch(count: int) -> bytes:
        fetched.append(os.urandom(count))
        return fetched[-1]

    source = RandomBlocks(fetch)
    taken = [source.take(size) for size in (16, 8, 4000, 72)]
    assert b"".join(taken) == fetched[0] == fetched[0][:BLOCK_BYTES]
    assert len(fetched) == 1
    assert source.take(16) == fetched[1][:16]


def test_piece_that_does_not_fit_begins_a_new_block() -> None:
    source = RandomBlocks(os.urandom)
    pieces = {source.take(24) for _ in range(1000)}
    assert len(pieces) == 1000
    assert {len(piece) for piece in pieces} == {24}
