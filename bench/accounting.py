"""CPU time and memory of a process with all its descendants, from the kernel's own accounts.

A child that ends is not lost: the kernel adds its time to the parent that waits for it.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat after the name in brackets, counted from 0 (proc(5)).
PARENT, UTIME, CSTIME = 1, 11, 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Megabytes (10**6 bytes) of a tree. `pss` counts what processes share only once; it is None
    where the kernel does not let us look."""

    rss: float
    pss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """All CPUs together, in seconds since the start of the machine."""

    busy: float
    total: float


class Accounts:
    """Reads a /proc file system, which is `proc`."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def cpu_seconds(self, root: int) -> float:
        """User and system time of `root`, its living descendants and the dead ones they have
        waited for; 0 when `root` is gone. Exact to a tick (10 ms) a process."""
        fields = (self._stat(pid) for pid in self.tree(root))
        return sum(sum(map(int, found[UTIME : CSTIME + 1])) for found in fields if found) / TICKS

    def memory(self, root: int) -> Memory:
        members = list(self.tree(root))
        shares = [self._kilobytes(pid, "smaps_rollup", "Pss:") for pid in members]
        known = [share for share in shares if share is not None]
        rss = sum(self._kilobytes(pid, "status", "VmRSS:") or 0 for pid in members)
        pss = sum(known) * 1024 / 1e6 if known and len(known) == len(members) else None
        return Memory(rss=rss * 1024 / 1e6, pss=pss)

    def machine(self) -> Machine:
        """Raises OSError where there is no /proc/stat."""
        first = (self._proc / "stat").read_text().splitlines()[0].split()[1:9]
        values = [int(value) / TICKS for value in first]
        idle = values[3] + values[4]
        return Machine(busy=sum(values) - idle, total=sum(values))

    def tree(self, root: int) -> Iterator[int]:
        """`root` and its living descendants; nothing when `root` is gone."""
        parents = dict(self._parents())
        if root not in parents:
            return
        pending = [root]
        while pending:
            pid = pending.pop()
            yield pid
            pending.extend(child for child, parent in parents.items() if parent == pid)

    def _parents(self) -> Iterable[tuple[int, int]]:
        for entry in self._proc.iterdir():
            if entry.name.isdigit() and (found := self._stat(int(entry.name))):
                yield int(entry.name), int(found[PARENT])

    def _stat(self, pid: int) -> list[str]:
        """Empty when the process is gone."""
        try:
            text = (self._proc / str(pid) / "stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return []
        # The name may hold spaces and brackets; the last bracket ends it.
        return text.rpartition(")")[2].split()

    def _kilobytes(self, pid: int, file: str, name: str) -> int | None:
        try:
            lines = (self._proc / str(pid) / file).read_text(errors="replace").splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) for line in lines if line.startswith(name)), None)
