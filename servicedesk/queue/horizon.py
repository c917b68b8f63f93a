"""Up to which id the rows of a queue are settled, worked out from who writes meanwhile."""


class Horizon:
    """The id up to which every row is visible or will never be.

    A writer holds a lock on the table from before it draws an id until after its row is visible. So
    whoever drew an id up to the newest one, and is not done, is among the writers seen afterwards.
    """

    def __init__(self) -> None:
        self.settled_id = 0
        self.newest_id = 0
        self._writers: frozenset[str] = frozenset()

    def look(self, newest_id: int, writers: frozenset[str]) -> None:
        """Take in the newest id, and the writers as they were after it was read."""
        if not self._writers & writers:
            self.settled_id = max(self.settled_id, self.newest_id)
            self.newest_id, self._writers = newest_id, writers
            if not writers:
                self.settled_id = newest_id
