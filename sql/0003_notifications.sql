-- notifyd's first stage: the event ids that have been taken in, each once.
CREATE TABLE inbox (
    event_id    uuid        PRIMARY KEY,
    topic       text        NOT NULL,
    partition   integer     NOT NULL,
    "offset"    bigint      NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inbox_received ON inbox (received_at);

-- notifyd's second stage: the ordered queue again, keyed by ticket and receiver.
CREATE TABLE delivery (
    bucket       smallint    NOT NULL CHECK (bucket BETWEEN 0 AND 63),
    id           bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    receiver     text        NOT NULL,
    aggregate_id uuid        NOT NULL,
    sequence     bigint      NOT NULL CHECK (sequence >= 1),
    event_id     uuid        NOT NULL,
    event_type   text        NOT NULL,
    headers      text        NOT NULL,                    -- JSON: topic, partition, offset, timestamp, traceparent
    payload      text        NOT NULL,                    -- the event envelope, as it came
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bucket, id)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE TABLE delivery_bucket (
    bucket      smallint    PRIMARY KEY CHECK (bucket BETWEEN 0 AND 63),
    owner       text,
    epoch       bigint      NOT NULL DEFAULT 0,
    lease_until timestamptz
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
INSERT INTO delivery_bucket (bucket) SELECT generate_series(0, 63);

CREATE TABLE delivery_worker (
    owner      text        PRIMARY KEY,
    seen_until timestamptz NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE delivery_parked (
    bucket          smallint    NOT NULL,
    key             text        NOT NULL,
    first_id        bigint      NOT NULL,
    attempts        integer     NOT NULL CHECK (attempts >= 1),
    next_at         timestamptz NOT NULL,
    first_failed_at timestamptz NOT NULL DEFAULT now(),
    error           text        NOT NULL,
    PRIMARY KEY (bucket, key)
);

CREATE TABLE delivery_dead (
    bucket          smallint    NOT NULL,
    id              bigint      NOT NULL,
    receiver        text        NOT NULL,
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
CREATE INDEX delivery_dead_event ON delivery_dead (event_id);

-- Deliveries that a receiver has acknowledged, once each; trimmed by age.
CREATE TABLE delivery_done (
    event_id     uuid        NOT NULL,
    receiver     text        NOT NULL,
    aggregate_id uuid        NOT NULL,
    sequence     bigint      NOT NULL,
    delivered_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_id, receiver)
);
CREATE INDEX delivery_done_delivered ON delivery_done (delivered_at);
