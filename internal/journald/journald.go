// Package journald is a slog.Handler that hands records to systemd's journal as they are: with fields that can be asked
// for, as `journalctl HOLDFAST_UPSTREAM=10.0.0.1:2380`, instead of text on standard error.
//
// The format is that of systemd's "Native Journal Protocol": a datagram of fields, each NAME=value and a line end, or, for
// a value with line ends in it, NAME, a line end, its length in 64 bits and the value.
package journald

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"
)

// Socket is where the journal listens.
const Socket = "/run/systemd/journal/socket"

const (
	// recordMax is the most that is sent; a datagram of more may not fit the socket's buffer. More goes to the fallback.
	recordMax = 64 << 10
	// fieldsMax bounds the fields of a record. The text of the message has all of them.
	fieldsMax = 32
	nameMax   = 64 // of a field, as the journal has it
	sendMax   = time.Second
)

// Handler sends records. It may be used concurrently.
type Handler struct {
	conn     *net.UnixConn
	level    slog.Leveler
	fallback slog.Handler // gets what the journal does not take
	prefix   string       // of names, from groups
	fields   []byte       // of WithAttrs, encoded
	text     string       // the same for people
}

// New returns a handler that sends to the journal at a socket. What cannot be sent goes to fallback, so that no record is
// lost because the journal restarts.
func New(socket string, level slog.Leveler, fallback slog.Handler) (*Handler, error) {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return &Handler{conn: conn, level: level, fallback: fallback}, nil
}

// Enabled is by the level that New got.
func (h *Handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level.Level() }

// Handle sends a record: MESSAGE with everything for people, HOLDFAST_EVENT with the constant part, each attribute as
// HOLDFAST_NAME, and PRIORITY.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	var b bytes.Buffer
	writeField(&b, "PRIORITY", priority(r.Level))
	writeField(&b, "SYSLOG_IDENTIFIER", "holdfast")
	writeField(&b, "HOLDFAST_EVENT", r.Message)
	b.Write(h.fields)
	text, n := r.Message+h.text, 0
	r.Attrs(func(a slog.Attr) bool {
		h.attr(h.prefix, a, func(name, value string) {
			text += " " + pair(name, value)
			if n++; n <= fieldsMax {
				writeField(&b, fieldName(name), value)
			}
		})
		return true
	})
	writeField(&b, "MESSAGE", text)
	if b.Len() <= recordMax && h.send(b.Bytes()) == nil {
		return nil
	}
	return h.fallback.Handle(ctx, r)
}

func (h *Handler) send(datagram []byte) error {
	if err := h.conn.SetWriteDeadline(time.Now().Add(sendMax)); err != nil {
		return err
	}
	_, err := h.conn.Write(datagram)
	return err
}

// attr walks an attribute and the groups in it.
func (h *Handler) attr(prefix string, a slog.Attr, each func(name, value string)) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, inner := range v.Group() {
			h.attr(prefix, inner, each)
		}
		return
	}
	if a.Key != "" {
		each(prefix+a.Key, v.String())
	}
}

// WithAttrs returns a handler whose records have these attributes too.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	var b bytes.Buffer
	b.Write(h.fields)
	for _, a := range attrs {
		h.attr(h.prefix, a, func(name, value string) {
			writeField(&b, fieldName(name), value)
			next.text += " " + pair(name, value)
		})
	}
	next.fields, next.fallback = b.Bytes(), h.fallback.WithAttrs(attrs)
	return &next
}

// WithGroup returns a handler that puts a name in front of those of attributes.
func (h *Handler) WithGroup(name string) slog.Handler {
	next := *h
	next.prefix += name + "."
	next.fallback = h.fallback.WithGroup(name)
	return &next
}

// fieldName is a name that the journal takes: capitals, digits and underscores.
func fieldName(name string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
	clean = "HOLDFAST_" + clean
	return clean[:min(len(clean), nameMax)]
}

func writeField(b *bytes.Buffer, name, value string) {
	b.WriteString(name)
	if strings.Contains(value, "\n") {
		b.WriteByte('\n')
		b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(value))))
	} else {
		b.WriteByte('=')
	}
	b.WriteString(value)
	b.WriteByte('\n')
}

// pair is an attribute in a line of text.
func pair(name, value string) string {
	if value == "" || strings.ContainsAny(value, " \"\n\t=") {
		return fmt.Sprintf("%s=%q", name, value)
	}
	return name + "=" + value
}

func priority(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "3"
	case level >= slog.LevelWarn:
		return "4"
	case level >= slog.LevelInfo:
		return "6"
	}
	return "7"
}
