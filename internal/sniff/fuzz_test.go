package sniff

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// scripted is a connection whose client sends what it is given, in pieces, and goes.
type scripted struct {
	net.Conn
	in io.Reader
}

func (c *scripted) Read(p []byte) (int, error)       { return c.in.Read(p[:min(len(p), 7)]) }
func (c *scripted) Write(p []byte) (int, error)      { return len(p), nil }
func (c *scripted) SetReadDeadline(time.Time) error  { return nil }
func (c *scripted) SetWriteDeadline(time.Time) error { return nil }
func (c *scripted) Close() error                     { return nil }

// FuzzJudge lets any bytes come first on a connection. Whoever gets it reads them all, HTTP/2 without the acknowledgement of
// our SETTINGS.
func FuzzJudge(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00\x00\x05\x01\x05\x00\x00\x00\x01\x82\x84\x86\x41\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := New(nil, time.Minute, nil, &Bounds{})
		to, conn := s.judge(&scripted{in: bytes.NewReader(b)})
		if to == nil {
			return
		}
		got, _ := io.ReadAll(conn) // may be cut off by what it is told
		if len(got) > len(b) {
			t.Fatalf("%d bytes became %d", len(b), len(got))
		}
		if !bytes.HasPrefix(b, preface) && !bytes.Equal(got, b) {
			t.Fatalf("%q became %q", b, got)
		}
	})
}
