package sniff

import (
	"bytes"
	"errors"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// readSize is how much is read at once. The first bytes of a connection are few.
	readSize = 512
	// headMax is how much a client may send before its first request is known; what is larger is net/http's to refuse.
	headMax = 128 << 10
	// frameMax is the largest frame that a client may send before it was told otherwise.
	frameMax = 16 << 10
	// tableSize is what HTTP/2 begins with.
	tableSize = 4096
)

var preface = []byte(http2.ClientPreface)

// emptySettings is the frame that has clients of gRPC go on.
var emptySettings = []byte{0, 0, 0, byte(http2.FrameSettings), 0, 0, 0, 0, 0}

// judge returns whose connection it is, nil if it has ended, and the connection with what was read from it put back.
func (s *Splitter) judge(c net.Conn) (*branch, net.Conn) {
	if err := c.SetReadDeadline(time.Now().Add(s.timeout)); err != nil {
		return nil, nil
	}
	r := &recorder{conn: c}
	isHTTP2, err := r.prefaced()
	if err != nil {
		return nil, nil
	}
	to, acked := &s.http, true
	if isHTTP2 {
		if _, err := c.Write(emptySettings); err != nil {
			return nil, nil
		}
		if to, acked = s.first(r); to == nil {
			return nil, nil
		}
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return nil, nil
	}
	switch {
	case !isHTTP2:
		return to, &replayed{Conn: c, left: r.seen}
	case to == &s.http:
		return to, newMetered(newUnacked(c, r.seen, acked), s.bounds, false)
	default:
		return to, newMetered(&replayed{Conn: c, left: r.seen}, s.bounds, true)
	}
}

// first reads the frames of a connection up to its first request. acked: the client has acknowledged our SETTINGS, and
// that is taken out of what was seen.
func (s *Splitter) first(r *recorder) (to *branch, acked bool) {
	framer := http2.NewFramer(nil, r)
	framer.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
	framer.MaxHeaderListSize = headMax
	framer.SetMaxReadFrameSize(frameMax)
	for {
		begin := r.taken
		frame, err := framer.ReadFrame()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && r.taken == begin:
			return &s.grpc, acked // connected, and nothing to ask
		case errors.Is(err, errTooMuch), errors.Is(err, http2.ErrFrameTooLarge), malformed(err):
			return &s.http, acked // which knows how to refuse it
		case err != nil:
			return nil, acked
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if isGRPC(frame.Fields) {
				return &s.grpc, acked
			}
			return &s.http, acked
		case *http2.SettingsFrame:
			if frame.IsAck() && !acked {
				acked = true
				r.cut(begin)
			}
		case *http2.PingFrame:
			return &s.grpc, acked // kept alive before its first call
		}
	}
}

func malformed(err error) bool {
	_, ofStream := errors.AsType[http2.StreamError](err)
	_, ofConn := errors.AsType[http2.ConnectionError](err)
	return ofStream || ofConn
}

// isGRPC reports whether a request is a call for a gRPC server. gRPC for the web is not.
func isGRPC(fields []hpack.HeaderField) bool {
	for _, f := range fields {
		if f.Name == "content-type" {
			rest, ok := strings.CutPrefix(f.Value, "application/grpc")
			return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
		}
	}
	return false
}

// recorder reads from a connection and keeps what it has read.
type recorder struct {
	conn  net.Conn
	seen  []byte
	taken int // of seen, by Read
}

var errTooMuch = errors.New("no request within headMax bytes")

// more reads what there is.
func (r *recorder) more() error {
	if len(r.seen) >= headMax {
		return errTooMuch
	}
	r.seen = append(r.seen, make([]byte, readSize)...)
	n, err := r.conn.Read(r.seen[len(r.seen)-readSize:])
	r.seen = r.seen[:len(r.seen)-readSize+n]
	if n > 0 {
		return nil
	}
	return err
}

// prefaced reports whether the connection begins as HTTP/2 does.
func (r *recorder) prefaced() (bool, error) {
	for {
		n := min(len(r.seen), len(preface))
		switch {
		case !bytes.Equal(r.seen[:n], preface[:n]):
			return false, nil
		case n == len(preface):
			r.taken = n
			return true, nil
		}
		if err := r.more(); err != nil {
			return false, err
		}
	}
}

func (r *recorder) Read(p []byte) (int, error) {
	if r.taken == len(r.seen) {
		if err := r.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.seen[r.taken:])
	r.taken += n
	return n, nil
}

// cut forgets what was taken since begin.
func (r *recorder) cut(begin int) {
	r.seen = append(r.seen[:begin], r.seen[r.taken:]...)
	r.taken = begin
}
