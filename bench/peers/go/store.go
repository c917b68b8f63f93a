package main

import (
	"context"
	"hash/crc32"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const buckets = 64

// Store keeps tickets and their events.
type Store struct {
	pool *pgxpool.Pool
}

// Event is a row of the outbox; Headers and Payload are JSON.
type Event struct {
	ID      uuid.UUID
	Type    string
	Headers string
	Payload string
}

const insertTicket = `
INSERT INTO tickets (id, title, description, status, priority, requester, assignee,
                     version, created_at, updated_at, closed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`

const insertEvent = `
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
VALUES ($1, $2, $3, $4, $5, $6, $7)`

// Create returns after the commit of both rows.
func (s *Store) Create(ctx context.Context, t *Ticket, e *Event) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, insertTicket, t.ID, t.Title, t.Description, t.Status, t.Priority,
			t.Requester, t.Assignee, t.Version, time.Time(t.CreatedAt), time.Time(t.UpdatedAt), nil)
		if err != nil {
			return err
		}
		bucket := int16(crc32.ChecksumIEEE([]byte(t.ID.String())) % buckets)
		_, err = tx.Exec(ctx, insertEvent, bucket, t.ID, t.Version, e.ID, e.Type, e.Headers, e.Payload)
		return err
	})
}

const selectTicket = `
SELECT id, title, description, status, priority, requester, assignee, version,
       created_at, updated_at, closed_at
FROM tickets WHERE id = $1`

// Get returns pgx.ErrNoRows when there is no such ticket.
func (s *Store) Get(ctx context.Context, id uuid.UUID) (*Ticket, error) {
	var t Ticket
	var created, updated time.Time
	var closed *time.Time
	err := s.pool.QueryRow(ctx, selectTicket, id).Scan(&t.ID, &t.Title, &t.Description, &t.Status,
		&t.Priority, &t.Requester, &t.Assignee, &t.Version, &created, &updated, &closed)
	if err != nil {
		return nil, err
	}
	t.CreatedAt, t.UpdatedAt, t.ClosedAt = Timestamp(created), Timestamp(updated), (*Timestamp)(closed)
	return &t, nil
}
