-- Tickets. Ids are UUIDv7 made by ticketd; created_at is the id's own millisecond, so the order of ids
-- is the order of creation and a range of created_at is a range of ids.
CREATE TABLE tickets (
    id          uuid        PRIMARY KEY,
    title       text        NOT NULL CHECK (char_length(title) BETWEEN 1 AND 200),
    description text        NOT NULL CHECK (char_length(description) <= 5000),
    status      text        NOT NULL CHECK (status IN ('new', 'in_progress', 'resolved', 'closed')),
    priority    text        NOT NULL CHECK (priority IN ('low', 'normal', 'high', 'urgent')),
    requester   text        NOT NULL CHECK (char_length(requester) BETWEEN 1 AND 200),
    assignee    text        CHECK (char_length(assignee) BETWEEN 1 AND 200),
    version     bigint      NOT NULL CHECK (version >= 1),
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    closed_at   timestamptz
);

-- One index for every combination of filters that the list offers, each in the list's own order.
CREATE INDEX tickets_status ON tickets (status, id DESC);
CREATE INDEX tickets_priority ON tickets (priority, id DESC);
CREATE INDEX tickets_status_priority ON tickets (status, priority, id DESC);
-- Partial: a ticket that nobody has taken yet costs these four nothing.
CREATE INDEX tickets_assignee ON tickets (assignee, id DESC) WHERE assignee IS NOT NULL;
CREATE INDEX tickets_assignee_status
    ON tickets (assignee, status, id DESC) WHERE assignee IS NOT NULL;
CREATE INDEX tickets_assignee_priority
    ON tickets (assignee, priority, id DESC) WHERE assignee IS NOT NULL;
CREATE INDEX tickets_assignee_status_priority
    ON tickets (assignee, status, priority, id DESC) WHERE assignee IS NOT NULL;
