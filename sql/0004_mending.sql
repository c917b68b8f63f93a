-- What people have done to the queues by hand, a row for each row they touched; written in the
-- transaction of the act itself, trimmed by age from the low ids of a queue.
CREATE TABLE mending_history (
    queue           text        NOT NULL CHECK (queue IN ('outbox', 'delivery')),
    id              bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    at              timestamptz NOT NULL DEFAULT now(),
    act             text        NOT NULL CHECK (act IN ('retry', 'skip', 'redrive')),
    operator        text        NOT NULL,                 -- user@host, or whom the operator named
    selection       text        NOT NULL,                 -- the arguments, as they were given
    event_id        uuid,                                 -- NULL: the row was gone already
    key             text        NOT NULL,
    error           text        NOT NULL,
    first_failed_at timestamptz NOT NULL,
    outcome         text        NOT NULL,
    -- Where the dead letter was read, if that is where the row came from.
    topic           text,
    partition       integer,
    "offset"        bigint,
    PRIMARY KEY (queue, id)
);
-- One death of an event is its key and the moment it first failed: is it redriven already?
CREATE INDEX mending_history_event ON mending_history (event_id);

-- Dead rows are selected and trimmed by the time they were given up.
CREATE INDEX outbox_dead_failed ON outbox_dead (failed_at);
CREATE INDEX delivery_dead_failed ON delivery_dead (failed_at);
