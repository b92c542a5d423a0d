package sniff

import (
	"encoding/binary"
	"io"
	"net"

	"golang.org/x/net/http2"
)

// replayed is a connection from which some bytes were read: they are read again first.
type replayed struct {
	net.Conn
	left []byte
}

func (c *replayed) Read(p []byte) (int, error) {
	if len(c.left) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.left)
	if c.left = c.left[n:]; len(c.left) == 0 {
		c.left = nil
	}
	return n, nil
}

// NetConn is the connection as it was accepted.
func (c *replayed) NetConn() net.Conn { return c.Conn }

// CloseWrite lets net/http end a connection without losing the answer.
func (c *replayed) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// unacked is an HTTP/2 connection whose client acknowledges one SETTINGS more than its server has sent: ours. net/http
// would take that as a fault, so the first acknowledgement is left out.
type unacked struct {
	replayed
	head  [frameHead]byte
	have  int    // of head
	pass  []byte // to be passed on before anything else
	left  int    // of the payload of the present frame
	acked bool
}

// frameHead is the length of what a frame of HTTP/2 begins with.
const frameHead = 9

// newUnacked returns c with seen, which begins with the preface, put back.
func newUnacked(c net.Conn, seen []byte, acked bool) net.Conn {
	if acked {
		return &replayed{Conn: c, left: seen}
	}
	return &unacked{replayed: replayed{Conn: c, left: seen[len(preface):]}, pass: preface}
}

// Read passes on frame by frame until the acknowledgement was met.
func (c *unacked) Read(p []byte) (int, error) {
	for {
		switch {
		case len(c.pass) > 0:
			n := copy(p, c.pass)
			c.pass = c.pass[n:]
			return n, nil
		case c.acked:
			return c.replayed.Read(p)
		case c.left > 0:
			n, err := c.replayed.Read(p[:min(len(p), c.left)])
			c.left -= n
			return n, err
		}
		n, err := io.ReadFull(&c.replayed, c.head[c.have:])
		if c.have += n; c.have < frameHead {
			if c.have > 0 && err == io.EOF { //nolint:errorlint // as io.Reader has it
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		c.have = 0
		kind, flags := http2.FrameType(c.head[3]), http2.Flags(c.head[4])
		if kind == http2.FrameSettings && flags.Has(http2.FlagSettingsAck) {
			c.acked = true
			continue
		}
		c.left = int(binary.BigEndian.Uint32(append([]byte{0}, c.head[:3]...)))
		c.pass = c.head[:]
	}
}

// TooManyConnections is the word for a client of GRPC that cannot be served: after the SETTINGS it got, a GOAWAY that
// begins no request.
var TooManyConnections = goAway("too many connections")

func goAway(why string) []byte {
	frame := []byte{0, 0, byte(8 + len(why)), byte(http2.FrameGoAway), 0, 0, 0, 0, 0, 0, 0, 0, 0}
	frame = binary.BigEndian.AppendUint32(frame, uint32(http2.ErrCodeEnhanceYourCalm))
	return append(frame, why...)
}
