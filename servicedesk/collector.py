"""Python's cyclic garbage collector in a daemon that makes many short-lived objects."""

import gc


def collect_seldom(young: int) -> None:
    """To be called once, after the start: what is loaded now stays for good and is left out of
    later collections. These come after `young` new objects instead of 700, because what a daemon
    makes leaves next to no cycles behind. See docs/iterations/07-collector.md."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(young, 20, 20)
