"""Moves the outbox into Kafka: at least once, in order per ticket, any number of copies."""
