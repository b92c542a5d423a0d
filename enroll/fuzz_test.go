package enroll

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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

// idle is a connection that does nothing.
type idle struct{}

func (idle) Lost() bool               { return false }
func (idle) Health() transport.Health { return transport.Health{} }
func (idle) Address() string          { return "192.0.2.1:1" }
func (idle) Close(string)             {}

// FuzzControl has a node say anything on the stream by which a member knows it, and a member anything to a node. Each comes to its end, and
// the member does not take the node for connected then.
func FuzzControl(f *testing.F) {
	framed := func(all ...any) []byte {
		var b bytes.Buffer
		for _, v := range all {
			text, err := json.Marshal(v)
			if err != nil {
				f.Fatal(err)
			}
			if err := wire.WriteFrame(&b, text); err != nil {
				f.Fatal(err)
			}
		}
		return b.Bytes()
	}
	f.Add(framed(Hello{Boot: "b", Report: Report{Name: "pump", Mode: "proxy"}}, Report{Ask: 1, QueueDepth: 7, Devices: LastSeen{"1": 2}}))
	f.Add(framed(Hello{List: true}))
	f.Add(framed(News{Now: time.Unix(1, 0), Revoked: []string{"a"}}, News{Ask: 1, Order: &Order{}}, News{Refused: "a copy"}))
	f.Add([]byte("\xff\xff\xff\x7f{"))
	f.Fuzz(func(t *testing.T, said []byte) {
		r := NewRoll(RollOptions{Now: time.Now, Log: slog.New(slog.DiscardHandler), News: func() (News, <-chan struct{}) { return News{}, nil }})
		listen, err := r.Attend(t.Context(), "n", idle{}, wire.NewPatient(bytes.NewReader(said)), io.Discard)
		if err == nil && listen != nil {
			_ = listen() // it may have said goodbye
			if len(r.present()) != 0 {
				t.Fatalf("%q: it is still there", said)
			}
		}
		if err := Follow(bufio.NewReader(bytes.NewReader(said)), io.Discard, "b", func(News) Report { return Report{} }, func(News) {}, func(Order) Progress { return Progress{} }); err == nil {
			t.Fatalf("%q ends without an error", said)
		}
	})
}
