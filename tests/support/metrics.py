"""Reads the text of /metrics."""

import re


def sample(metrics: str, name: str) -> float:
    """The sum over all label values."""
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", metrics, re.MULTILINE)
    return sum(float(value) for value in found)
