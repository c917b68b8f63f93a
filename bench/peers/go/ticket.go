package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Timestamp is written as RFC 3339 with microseconds in UTC.
type Timestamp time.Time

func (t Timestamp) MarshalJSON() ([]byte, error) {
	return time.Time(t).UTC().AppendFormat(nil, `"2006-01-02T15:04:05.000000Z"`), nil
}

// Ticket is what clients and events see.
type Ticket struct {
	ID          uuid.UUID  `json:"id"`
	Title       string     `json:"title"`
	Description string     `json:"description"`
	Status      string     `json:"status"`
	Priority    string     `json:"priority"`
	Requester   string     `json:"requester"`
	Assignee    *string    `json:"assignee"`
	Version     int64      `json:"version"`
	CreatedAt   Timestamp  `json:"created_at"`
	UpdatedAt   Timestamp  `json:"updated_at"`
	ClosedAt    *Timestamp `json:"closed_at"`
}

// NewTicket is the body of a create. Pointers tell what is missing from what is empty.
type NewTicket struct {
	Title       *string `json:"title"`
	Description *string `json:"description"`
	Priority    *string `json:"priority"`
	Requester   *string `json:"requester"`
	Assignee    *string `json:"assignee"`
}

var members = map[string]bool{
	"title": true, "description": true, "priority": true, "requester": true, "assignee": true,
}

// FieldError is one wrong member of a body.
type FieldError struct {
	Field   string `json:"field"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Parse reads a body; every wrong member is told at once.
func Parse(body []byte) (*NewTicket, []FieldError, error) {
	var new NewTicket
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&new); err != nil {
		unknown, other := unknownMembers(body)
		if other != nil || len(unknown) == 0 {
			return nil, nil, err
		}
		if err := json.Unmarshal(body, &new); err != nil {
			return nil, nil, err
		}
		return nil, append(unknown, new.check()...), nil
	}
	if wrong := new.check(); len(wrong) > 0 {
		return nil, wrong, nil
	}
	return &new, nil, nil
}

func unknownMembers(body []byte) ([]FieldError, error) {
	var found map[string]json.RawMessage
	if err := json.Unmarshal(body, &found); err != nil {
		return nil, err
	}
	var wrong []FieldError
	for name := range found {
		if !members[name] {
			wrong = append(wrong, FieldError{name, "unknown_field", "is not a member of this body"})
		}
	}
	return wrong, nil
}

func (n *NewTicket) check() []FieldError {
	var wrong []FieldError
	text := func(field string, value *string, required bool, minimum, maximum int) {
		if value == nil {
			if required {
				wrong = append(wrong, FieldError{field, "required", "is missing"})
			}
			return
		}
		switch length := utf8.RuneCountInString(*value); {
		case length < minimum:
			wrong = append(wrong, FieldError{field, "too_short", fmt.Sprintf("at least %d is needed", minimum)})
		case length > maximum:
			wrong = append(wrong, FieldError{field, "too_long", fmt.Sprintf("at most %d are allowed", maximum)})
		case strings.IndexByte(*value, 0) >= 0:
			wrong = append(wrong, FieldError{field, "nul_character", "holds a NUL character"})
		}
	}
	text("title", n.Title, true, 1, 200)
	text("description", n.Description, false, 0, 5000)
	text("requester", n.Requester, true, 1, 200)
	text("assignee", n.Assignee, false, 1, 200)
	if n.Priority != nil {
		switch *n.Priority {
		case "low", "normal", "high", "urgent":
		default:
			wrong = append(wrong, FieldError{"priority", "unknown_value", "must be one of low, normal, high, urgent"})
		}
	}
	return wrong
}

// Open makes the ticket; its CreatedAt is the millisecond of its id.
func Open(n *NewTicket) (*Ticket, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	milliseconds := int64(id[0])<<40 | int64(id[1])<<32 | int64(id[2])<<24 |
		int64(id[3])<<16 | int64(id[4])<<8 | int64(id[5])
	created := Timestamp(time.UnixMilli(milliseconds).UTC())
	return &Ticket{
		ID:          id,
		Title:       *n.Title,
		Description: valueOr(n.Description, ""),
		Status:      "new",
		Priority:    valueOr(n.Priority, "normal"),
		Requester:   *n.Requester,
		Assignee:    n.Assignee,
		Version:     1,
		CreatedAt:   created,
		UpdatedAt:   created,
	}, nil
}

func valueOr(value *string, otherwise string) string {
	if value == nil {
		return otherwise
	}
	return *value
}
