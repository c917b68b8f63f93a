"""The ways out of notifyd: a log line, a signed webhook, a mail."""
