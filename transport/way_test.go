package transport

import (
	"bytes"
	"net"
	"testing"
	"time"
)

// said is a TCP connection on which something was said, and on which what is answered is kept.
type said struct {
	net.Conn
	in, out bytes.Buffer
}

func (c *said) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *said) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *said) SetWriteDeadline(time.Time) error { return nil }

// FuzzPackets reads whatever a stranger says on TCP as packets. Those that are read are what was sent, and short enough.
func FuzzPackets(f *testing.F) {
	f.Add([]byte("\x00\x01a\x00\x02bc"))
	f.Add([]byte("\x00\x00"))
	f.Add([]byte("\x05\xdd"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		c := &said{in: *bytes.NewBuffer(bytes.Clone(sent))}
		s, p := newPacketStream(c), make([]byte, 2*maxPacket)
		for {
			n, err := s.read(p)
			if err != nil {
				break
			}
			if n < 1 || n > maxPacket {
				t.Fatalf("a packet of %d bytes of %x", n, sent)
			}
			if err := s.write(p[:n]); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(sent, c.out.Bytes()) {
			t.Fatalf("%x was read as %x", sent, c.out.Bytes())
		}
	})
}
