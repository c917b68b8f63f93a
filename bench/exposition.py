"""What a sample needs from a Prometheus text: rows per statement, and the share of cache hits."""

import re

CACHE_READS = re.compile(
    r'^ticketd_cache_reads_total{outcome="(\w+)"} ([0-9.eE+-]+)$', re.MULTILINE
)
SAMPLE = re.compile(r"^([a-z_:]+)_(sum|count)(\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)


def batches(before: str, after: str) -> dict[str, float]:
    """Mean of what was observed between two texts, for each histogram with `batch` in its name.
    A histogram that has observed nothing since is left out."""
    earlier, later = _totals(before), _totals(after)
    found = {}
    for name, (total, count) in later.items():
        old_total, old_count = earlier.get(name, (0.0, 0.0))
        if count > old_count:
            found[name] = round((total - old_total) / (count - old_count), 3)
    return found


def hit_share(before: str, after: str) -> float | None:
    """Of the reads that asked the cache between two texts, how many it answered; None without."""
    earlier, later = dict(CACHE_READS.findall(before)), dict(CACHE_READS.findall(after))
    asked = {key: float(value) - float(earlier.get(key, 0)) for key, value in later.items()}
    total = sum(asked.values())
    return round(asked.get("hit", 0.0) / total, 3) if total else None


def _totals(text: str) -> dict[str, tuple[float, float]]:
    """Sum and count by name and labels."""
    totals: dict[str, dict[str, float]] = {}
    for name, kind, labels, value in SAMPLE.findall(text):
        if "batch" in name:
            totals.setdefault(name + labels, {})[kind] = float(value)
    return {
        name: (found.get("sum", 0.0), found.get("count", 0.0)) for name, found in totals.items()
    }
