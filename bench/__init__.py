"""The instrument: loads ticketd and its peers on this machine and keeps what it measured."""
