"""Faults that are really injected, on Apache Kafka, each with numbers in its output."""
