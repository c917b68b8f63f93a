-- Attachments of tickets; their content is in S3 under tickets/<ticket_id>/<id>. A row is there before
-- its object can be and until it is gone, so that no object is ever without a row.
CREATE TABLE attachments (
    id           uuid        PRIMARY KEY,
    ticket_id    uuid        NOT NULL REFERENCES tickets (id),
    -- Its place among those of the ticket, from 1 to how many there may be.
    slot         smallint    CHECK (slot >= 1),
    -- pending: to be uploaded; ready: verified and visible; removing: the object is to be deleted.
    state        text        NOT NULL CHECK (state IN ('pending', 'ready', 'removing')),
    name         text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    content_type text        NOT NULL CHECK (char_length(content_type) BETWEEN 3 AND 127),
    size         bigint      NOT NULL CHECK (size >= 1),
    sha256       bytea       NOT NULL CHECK (octet_length(sha256) = 32),
    created_at   timestamptz NOT NULL,
    completed_at timestamptz,
    -- Until then an upload that was begun may still arrive.
    late_until   timestamptz NOT NULL,
    -- When the sweeper looks at it next; a ready one is left alone.
    sweep_at     timestamptz,
    CHECK ((state = 'ready') = (sweep_at IS NULL)),
    CHECK ((state = 'removing') = (slot IS NULL))
);

-- No two attachments of a ticket take the same place, so there are never more than places.
CREATE UNIQUE INDEX attachments_slot ON attachments (ticket_id, slot);
CREATE INDEX attachments_sweep ON attachments (sweep_at) WHERE sweep_at IS NOT NULL;
