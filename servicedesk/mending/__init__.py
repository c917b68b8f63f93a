"""Showing and mending the queues by hand: the command line that every daemon offers."""
