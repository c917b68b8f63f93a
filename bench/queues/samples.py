"""One sample: the account of a load, whoever carried it."""

import time
from collections.abc import Callable, Mapping, Sequence

from bench.accounting import Accounts
from bench.result import Figures, Sample
from deploy.local.child import Child, StartError


class Account:
    """CPU of named processes between `open` and `close`, and what outsiders used meanwhile."""

    def __init__(self, pids: Mapping[str, Sequence[int]]) -> None:
        self._accounts = Accounts()
        self._pids = {part: list(found) for part, found in pids.items()}
        self._before = self._now()
        self._machine = self._accounts.machine()
        self._own = time.process_time()

    def _now(self) -> dict[str, float]:
        return {
            part: sum(self._accounts.cpu_seconds(pid) for pid in pids)
            for part, pids in self._pids.items()
        }

    def close(self, extra: Mapping[str, float]) -> tuple[dict[str, float], float]:
        """Seconds by part, ours as `harness` and `extra` included, and the outsiders' share."""
        used = {part: seconds - self._before[part] for part, seconds in self._now().items()}
        used |= {"harness": time.process_time() - self._own, **extra}
        after = self._accounts.machine()
        busy = after.busy - self._machine.busy - sum(used.values())
        others = busy / max(after.total - self._machine.total, 1e-9)
        return used, round(max(others, 0.0), 3)

    def memory(self, part: str) -> float:
        return sum(self._accounts.memory(pid).rss for pid in self._pids[part])


def sample_of(
    scenario: str,
    contestant: str,
    number: int,
    figures: Figures,
    account: Account,
    *,
    extra: Mapping[str, float] | None = None,
) -> Sample:
    memory = account.memory("service")
    used, others = account.close(extra or {})
    return Sample(
        scenario=scenario,
        contestant=contestant,
        round=number,
        figures=figures,
        cpu_us={
            part: round(seconds * 1e6 / max(figures.requests, 1), 2)
            for part, seconds in used.items()
        },
        others_cpu=others,
        memory_mb={"service_rss": round(memory, 1)},
    )


def until(done: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
    """Ask again and again; False when the time is over."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def ended(children: Sequence[Child]) -> bool:
    """False. Raises StartError when one of them has ended."""
    for child in children:
        if child.exit_code() is not None:
            raise StartError(f"{child.program.name} ended: {child.last_words(3)}")
    return False
