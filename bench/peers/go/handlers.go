package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const bodyLimit = 256 * 1024

func routes(store *Store) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /tickets", func(w http.ResponseWriter, r *http.Request) {
		createTicket(w, r, store)
	})
	mux.HandleFunc("GET /tickets/{id}", func(w http.ResponseWriter, r *http.Request) {
		readTicket(w, r, store)
	})
	return mux
}

func createTicket(w http.ResponseWriter, r *http.Request, store *Store) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if err != nil {
		problem(w, http.StatusRequestEntityTooLarge, "body_too_large", nil)
		return
	}
	new, wrong, err := Parse(body)
	if err != nil {
		problem(w, http.StatusBadRequest, "malformed_json", nil)
		return
	}
	if len(wrong) > 0 {
		problem(w, http.StatusBadRequest, "validation_failed", wrong)
		return
	}
	ticket, document, event, err := created(new, r.Header)
	if err == nil {
		err = store.Create(r.Context(), ticket, event)
	}
	if err != nil {
		log.Print(err)
		problem(w, http.StatusInternalServerError, "internal_error", nil)
		return
	}
	w.Header().Set("Location", "/tickets/"+ticket.ID.String())
	answer(w, http.StatusCreated, ticket.Version, document)
}

func created(new *NewTicket, header http.Header) (*Ticket, []byte, *Event, error) {
	ticket, err := Open(new)
	if err != nil {
		return nil, nil, nil, err
	}
	document, err := encode(ticket)
	if err != nil {
		return nil, nil, nil, err
	}
	correlation, err := encode(struct {
		RequestID   string `json:"request_id"`
		Traceparent string `json:"traceparent"`
	}{
		headerOr(header, "X-Request-Id", func() string { return random(16) }),
		headerOr(header, "Traceparent", func() string { return "00-" + random(16) + "-" + random(8) + "-00" }),
	})
	if err != nil {
		return nil, nil, nil, err
	}
	id, err := uuid.NewV7()
	event := &Event{ID: id, Type: "ticket.created", Headers: string(correlation), Payload: string(document)}
	return ticket, document, event, err
}

func readTicket(w http.ResponseWriter, r *http.Request, store *Store) {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		problem(w, http.StatusBadRequest, "validation_failed",
			[]FieldError{{"id", "invalid_uuid", "must be a UUID"}})
		return
	}
	ticket, err := store.Get(r.Context(), id)
	if errors.Is(err, pgx.ErrNoRows) {
		problem(w, http.StatusNotFound, "not_found", nil)
		return
	}
	var document []byte
	if err == nil {
		document, err = encode(ticket)
	}
	if err != nil {
		log.Print(err)
		problem(w, http.StatusInternalServerError, "internal_error", nil)
		return
	}
	answer(w, http.StatusOK, ticket.Version, document)
}

func answer(w http.ResponseWriter, status int, version int64, document []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("ETag", `"`+strconv.FormatInt(version, 10)+`"`)
	w.WriteHeader(status)
	_, _ = w.Write(document)
}

func problem(w http.ResponseWriter, status int, code string, wrong []FieldError) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"type": "/problems/" + code, "title": http.StatusText(status), "status": status,
		"code": code, "errors": wrong,
	})
}

// encode leaves <, > and & as they are, and ends without a line break.
func encode(value any) ([]byte, error) {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buffer.Bytes(), []byte("\n")), nil
}

func headerOr(header http.Header, name string, otherwise func() string) string {
	if value := header.Get(name); value != "" {
		return value
	}
	return otherwise()
}

func random(size int) string {
	value := make([]byte, size)
	_, _ = rand.Read(value)
	return hex.EncodeToString(value)
}
