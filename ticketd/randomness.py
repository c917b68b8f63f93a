"""Random bytes from the operating system, fetched a block at a time: a request needs up to five
small pieces, and each fetch is a system call."""

from collections.abc import Callable

BLOCK_BYTES = 4096


class RandomBlocks:
    """Every byte is handed out once. Not for sharing between processes: a forked copy would hand
    out the same bytes, and ticketd's workers are spawned, each with blocks of its own."""

    __slots__ = ("_block", "_fetch", "_position")

    def __init__(self, fetch: Callable[[int], bytes]) -> None:
        self._fetch = fetch
        self._block = b""
        self._position = 0

    def take(self, count: int) -> bytes:
        """`count` bytes, at most BLOCK_BYTES."""
        end = self._position + count
        if end > len(self._block):
            self._block = self._fetch(BLOCK_BYTES)
            self._position, end = 0, count
        taken = self._block[self._position : end]
        self._position = end
        return taken
