"""The HTTP API for tickets: answers after the commit that holds both the ticket and its event."""
