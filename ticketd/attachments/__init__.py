"""Files of tickets: their rows are in PostgreSQL, their content goes straight to and from S3."""
