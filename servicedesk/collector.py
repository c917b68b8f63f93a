"""Python's cyclic garbage collector in a daemon that makes many short-lived objects."""

import gc

# Of the young generation. The queue holds thousands of rows, none of which is ever in a cycle.
YOUNG = 50_000


def collect_seldom() -> None:
    """To be called once, after the start: what is there now stays for good and is left out of every
    later collection; these come less often. See docs/iterations/07-collector.md."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)
