"""The keys that wait, so many as there may be: which, and which of them are due.

What is asked at every read costs as much as has changed since, not as much as waits.
"""

from heapq import heapify, heappop, heappush

from servicedesk import binary

# Stale entries that may stay, besides as many as there are others.
STALE_ENTRIES = 64


class Waiting:
    """A key that was added waits, and is due only once it is scheduled and its time has come."""

    def __init__(self) -> None:
        # Each with its part of the array that reads are given.
        self._elements: dict[str, bytes] = {}
        self._texts: binary.Texts | None = None
        self._due_at: dict[str, float] = {}
        # By time. An entry that `_due_at` does not confirm is stale.
        self._schedule: list[tuple[float, str]] = []

    def __contains__(self, key: str) -> bool:
        return key in self._elements

    def keys(self) -> binary.Texts:
        if self._texts is None:
            self._texts = binary.Texts(self._elements)
        return self._texts

    def add(self, key: str) -> None:
        """It may wait already, and is no longer scheduled then."""
        self._due_at.pop(key, None)
        if key not in self._elements:
            self._elements[key] = binary.text_element(key)
            self._texts = None

    def schedule(self, key: str, due_at: float) -> None:
        """The key, which was added, is due at this time and at no other."""
        if key not in self._elements or self._due_at.get(key) == due_at:
            return
        self._due_at[key] = due_at
        heappush(self._schedule, (due_at, key))
        if len(self._schedule) > 2 * len(self._due_at) + STALE_ENTRIES:
            self._schedule = [(at, key) for key, at in self._due_at.items()]
            heapify(self._schedule)

    def discard(self, key: str) -> None:
        if self._elements.pop(key, None) is not None:
            self._due_at.pop(key, None)
            self._texts = None

    def take_due(self, now: float) -> list[str]:
        """Keys whose time has come, the longest due first; they wait no longer."""
        due = []
        while self._schedule and self._schedule[0][0] <= now:
            due_at, key = heappop(self._schedule)
            if self._due_at.get(key) == due_at:
                self.discard(key)
                due.append(key)
        return due
