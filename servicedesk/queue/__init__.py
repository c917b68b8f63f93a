"""The ordered queue in PostgreSQL: bucket leases, order per key, parking, circuits, dead letters.

One mechanism, used twice: relayd drains `outbox` into Kafka, notifyd drains `delivery` into its
channels. `row` and `target` are what the two daemons implement against; `drain` is the worker.
"""
