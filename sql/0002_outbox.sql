-- The outbox: events that are committed with their ticket and wait for relayd.
-- Rows are inserted and deleted, never updated; the primary key is the only index.
CREATE TABLE outbox (
    bucket       smallint    NOT NULL CHECK (bucket BETWEEN 0 AND 63),
    id           bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    aggregate_id uuid        NOT NULL,
    sequence     bigint      NOT NULL CHECK (sequence >= 1),
    event_id     uuid        NOT NULL,
    event_type   text        NOT NULL,
    headers      text        NOT NULL,                    -- JSON: request_id, traceparent
    payload      text        NOT NULL,                    -- JSON: the ticket as the API shows it
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bucket, id)
) WITH (
    -- Always almost empty and always churning: vacuum by rows, not by share of the table.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,
    autovacuum_vacuum_cost_delay = 0
);

-- Who drains which bucket. The epoch grows at every change of hands and fences the former owner.
CREATE TABLE outbox_bucket (
    bucket      smallint    PRIMARY KEY CHECK (bucket BETWEEN 0 AND 63),
    owner       text,
    epoch       bigint      NOT NULL DEFAULT 0,
    lease_until timestamptz
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
INSERT INTO outbox_bucket (bucket) SELECT generate_series(0, 63);

-- Workers alive, with or without buckets: what a fair share is counted from.
CREATE TABLE outbox_worker (
    owner      text        PRIMARY KEY,
    seen_until timestamptz NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Keys that wait for a retry; first_id is the row that failed, everything behind it waits too.
CREATE TABLE outbox_parked (
    bucket          smallint    NOT NULL,
    key             text        NOT NULL,
    first_id        bigint      NOT NULL,
    attempts        integer     NOT NULL CHECK (attempts >= 1),
    next_at         timestamptz NOT NULL,
    first_failed_at timestamptz NOT NULL DEFAULT now(),
    error           text        NOT NULL,
    PRIMARY KEY (bucket, key)
);

-- Rows given up after the last attempt, whole, until somebody redrives or removes them.
CREATE TABLE outbox_dead (
    bucket          smallint    NOT NULL,
    id              bigint      NOT NULL,
    aggregate_id    uuid        NOT NULL,
    sequence        bigint      NOT NULL,
    event_id        uuid        NOT NULL,
    event_type      text        NOT NULL,
    headers         text        NOT NULL,
    payload         text        NOT NULL,
    created_at      timestamptz NOT NULL,
    error           text        NOT NULL,
    attempts        integer     NOT NULL,
    first_failed_at timestamptz NOT NULL,
    failed_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id)
);
CREATE INDEX outbox_dead_event ON outbox_dead (event_id);
