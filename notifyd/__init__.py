"""Turns events into notifications: each event is handled once in the database."""
