-- Idempotency keys of POST requests, written in the transaction of what they created or changed and
-- deleted in small batches when they are a day old.
CREATE TABLE idempotency_key (
    digest      uuid        PRIMARY KEY,                  -- 128 bits of a hash of caller, route and key
    fingerprint uuid        NOT NULL,                     -- the same of what was sent
    ticket_id   uuid        NOT NULL,
    answer      text,                                     -- JSON; NULL: follows from the request and the id
    created_at  timestamptz NOT NULL DEFAULT now()
) WITH (
    -- Everything in it is deleted after a day: vacuum by rows, not by share of the table.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 500000
);
CREATE INDEX idempotency_key_created ON idempotency_key (created_at);

-- Which Redis may be believed as a cache, if any: the one that the gate names, and only what was put
-- there in this generation. A worker that could not invalidate closes the gate.
CREATE TABLE cache_gate (
    only_row   boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    generation bigint      NOT NULL DEFAULT 0,
    server     text,                                      -- NULL: closed
    changed_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10);
INSERT INTO cache_gate DEFAULT VALUES;
