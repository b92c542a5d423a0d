package enroll

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
	"holdfast/transport"
)

// stranger is the stream of a box that says something and takes any answer.
type stranger struct {
	io.Reader
	answer bytes.Buffer
}

func (s *stranger) Write(p []byte) (int, error) { return s.answer.Write(p) }
func (s *stranger) Close() error                { return nil }
func (s *stranger) Binding() []byte             { return make([]byte, 32) }

// FuzzDesk lets a box that knows no token's secret and has no certificate say anything where boxes join. It changes nothing, is
// issued nothing, and gets an answer.
func FuzzDesk(f *testing.F) {
	ca, err := transport.NewCA("test")
	if err != nil {
		f.Fatal(err)
	}
	s := &store{m: map[string]kv.KeyValue{}}
	d := &Desk{Store: s, CA: ca, Endpoints: func() []string { return []string{"a:1"} }, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	tok, err := CreateToken(f.Context(), s, ca.Hash(), TokenRecord{Expires: time.Now().Add(24 * time.Hour)})
	if err != nil {
		f.Fatal(err)
	}
	id, err := transport.NewIdentity()
	if err != nil {
		f.Fatal(err)
	}
	csr, err := id.Request()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"token":"` + tok.ID + `","proof":"x","node":"` + id.Node() + `","name":"box","role":"proxy","csr":"AAAA"}`))
	f.Add([]byte(`{"renew":{},"role":"member"}`))
	f.Add(csr)
	before := s.changes()
	f.Fuzz(func(t *testing.T, said []byte) {
		var framed bytes.Buffer
		if wire.WriteFrame(&framed, said) != nil {
			return // longer than any frame
		}
		st := &stranger{Reader: &framed}
		if err := d.Serve(context.Background(), st, "somewhere"); err == nil && st.answer.Len() == 0 {
			t.Fatal("no answer")
		}
		if s.changes() != before {
			t.Fatalf("%q changed something", said)
		}
		if bytes.Contains(st.answer.Bytes(), []byte(`"certificate":"`)) || bytes.Contains(st.answer.Bytes(), []byte(`"server":"`)) {
			t.Fatalf("%q was answered %s", said, st.answer.Bytes())
		}
	})
}
