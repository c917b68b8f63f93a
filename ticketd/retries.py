"""How a statement is repeated after its connection has died."""

import asyncio

from psycopg_pool import PoolTimeout

from ticketd.errors import DatabaseUnavailableError

PAUSE_SECONDS = 0.02


class Pauses:
    """Between repeats: none for as many as there are connections that may all have died
    together, then short ones, up to a time."""

    def __init__(self, seconds: float, free_repeats: int) -> None:
        self._give_up = asyncio.get_running_loop().time() + seconds
        self._free_repeats = free_repeats

    async def pause(self, failure: Exception) -> None:
        """Raises DatabaseUnavailableError when it is time to give up."""
        late = asyncio.get_running_loop().time() >= self._give_up
        if late or isinstance(failure, PoolTimeout):
            raise DatabaseUnavailableError from failure
        self._free_repeats -= 1
        if self._free_repeats < 0:
            await asyncio.sleep(PAUSE_SECONDS)
