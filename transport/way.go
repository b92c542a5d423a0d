package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Where UDP does not get through, the packets of a connection travel over TCP, each behind its length in two bytes, in a
// TLS 1.3 session that makes them look like what such networks let pass. The session is an envelope: it proves nobody.
// Who the ends are is proven inside, by the same handshake as over UDP, and a connection may change from one way to the
// other while it lives (RFC 9000, section 9).

const (
	// alpnTCP names the framing.
	alpnTCP = "holdfast-tcp/1"
	// maxPacket bounds a packet: what an Ethernet frame carries. QUIC's are 1452 bytes at most.
	maxPacket = 1500
	// tcpDialMax bounds TCP's and TLS's handshake.
	tcpDialMax = 5 * time.Second
	// tcpStall ends a way that takes no byte for so long. Until then it holds up the connection that sends on it.
	tcpStall = 10 * time.Second
	// tcpNotSent is how much waits in the kernel before the line has taken what was there: a second at 128 kbit/s. More
	// would only make a slow link slower to react.
	tcpNotSent = 16 << 10
)

// errWayEnded is the end of a TCP connection that carried packets.
type errWayEnded struct{ err error }

func (e *errWayEnded) Error() string { return "the TCP connection to the peer ended: " + e.err.Error() }
func (e *errWayEnded) Unwrap() error { return e.err }

// packetStream is one TCP connection as a carrier of packets. Read is for one goroutine, write for several.
type packetStream struct {
	conn net.Conn
	r    *bufio.Reader

	mu  sync.Mutex // held while writing, so that packets stay whole
	buf []byte
}

func newPacketStream(c net.Conn) *packetStream {
	return &packetStream{conn: c, r: bufio.NewReaderSize(c, 2048)}
}

// read reads one packet into p. A longer one than p is an error: the stream is of no more use.
func (s *packetStream) read(p []byte) (int, error) {
	var head [2]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n == 0 || n > min(len(p), maxPacket) {
		return 0, fmt.Errorf("a packet of %d bytes: want 1 to %d", n, min(len(p), maxPacket))
	}
	_, err := io.ReadFull(s.r, p[:n])
	return n, unexpected(err)
}

// write sends one packet, in one record. It blocks while the line is full, tcpStall at most.
func (s *packetStream) write(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = binary.BigEndian.AppendUint16(s.buf[:0], uint16(len(p)))
	s.buf = append(s.buf, p...)
	if err := s.conn.SetWriteDeadline(time.Now().Add(tcpStall)); err != nil {
		return err
	}
	_, err := s.conn.Write(s.buf)
	return err
}

// tcpWay is the net.PacketConn of one connection whose packets can travel over TCP. It outlives the TCP connection: the
// QUIC connection may have moved to UDP, and may come back on another one.
type tcpWay struct {
	remote *net.UDPAddr // where the peer is by UDP, and by TCP: the port has the same number both ways

	mu      sync.Mutex
	stream  *packetStream // nil: none now
	changed chan struct{} // closed when stream or closed changes
	closed  bool
	err     error // why the stream ended, if that was not wanted
}

func newTCPWay(addr netip.AddrPort) *tcpWay {
	return &tcpWay{remote: net.UDPAddrFromAddrPort(addr), changed: make(chan struct{})}
}

// attach makes c carry the packets from now on.
func (w *tcpWay) attach(c net.Conn) {
	old := w.swap(func() { w.stream, w.err = newPacketStream(c), nil })
	if old != nil {
		_ = old.conn.Close()
	}
}

// replace makes c carry the packets from now on. The former TCP connection is returned, for the caller to close: the peer ends with
// it what it still knows by it.
func (w *tcpWay) replace(c net.Conn) (former net.Conn) {
	old := w.swap(func() { w.stream, w.err = newPacketStream(c), nil })
	if old == nil {
		return nil
	}
	_ = old.conn.SetReadDeadline(time.Unix(1, 0)) // ReadFrom turns to the new one
	return old.conn
}

// detach ends the TCP connection on purpose: what is sent is lost until the next attach.
func (w *tcpWay) detach() {
	if old := w.swap(func() { w.stream = nil }); old != nil {
		_ = old.conn.Close()
	}
}

// Close ends the way for good.
func (w *tcpWay) Close() error {
	if old := w.swap(func() { w.stream, w.closed = nil, true }); old != nil {
		return old.conn.Close()
	}
	return nil
}

// swap changes what mu guards and returns the stream that was.
func (w *tcpWay) swap(change func()) *packetStream {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.stream
	change()
	close(w.changed)
	w.changed = make(chan struct{})
	return old
}

func (w *tcpWay) state() (s *packetStream, changed <-chan struct{}, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stream, w.changed, w.closed
}

// ended takes note that a stream broke, and tells whether it was the one in use.
func (w *tcpWay) ended(s *packetStream) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stream == s
}

// ReadFrom waits for a packet. When the TCP connection breaks while it is in use, QUIC's ends with it.
func (w *tcpWay) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		s, changed, closed := w.state()
		if closed {
			return 0, nil, net.ErrClosed
		}
		if s == nil {
			<-changed
			continue
		}
		n, err := s.read(p)
		if err == nil {
			return n, w.remote, nil
		}
		if w.ended(s) {
			return 0, nil, &errWayEnded{err}
		}
	}
}

// WriteTo sends a packet to the peer; the address is known.
func (w *tcpWay) WriteTo(p []byte, _ net.Addr) (int, error) {
	s, _, closed := w.state()
	if closed {
		return 0, net.ErrClosed
	}
	if s == nil {
		return len(p), nil // lost, as on any way
	}
	if err := s.write(p); err != nil && w.ended(s) {
		return 0, &errWayEnded{err}
	}
	return len(p), nil
}

// LocalAddr is of the TCP connection.
func (w *tcpWay) LocalAddr() net.Addr {
	if s, _, _ := w.state(); s != nil {
		return s.conn.LocalAddr()
	}
	return &net.UDPAddr{}
}

// SetReadBuffer is for quic-go, which complains of a socket without.
func (w *tcpWay) SetReadBuffer(int) error { return nil }

// SetWriteBuffer is as SetReadBuffer.
func (w *tcpWay) SetWriteBuffer(int) error { return nil }

// SetDeadline is not supported.
func (w *tcpWay) SetDeadline(time.Time) error { return os.ErrNoDeadline }

// SetWriteDeadline is not supported.
func (w *tcpWay) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// SetReadDeadline with a time ends the way: quic-go does so to end the goroutine that reads, and then only.
func (w *tcpWay) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		return nil
	}
	return w.Close()
}

// openTCP opens a TCP connection to a peer and the TLS session in it.
func (e *Endpoint) openTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, tcpDialMax, ErrUnreachable)
	defer cancel()
	raw, err := e.cfg.DialTCP(ctx, addr)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("over TCP: %w", err)
	}
	limitNotSent(raw)
	c := tls.Client(raw, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{alpnTCP},
		InsecureSkipVerify: true, //nolint:gosec // an envelope: the handshake inside proves the peer
	})
	if err = c.HandshakeContext(ctx); err == nil && c.ConnectionState().NegotiatedProtocol != alpnTCP {
		err = ErrProtocol
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("over TCP: %w", err), raw.Close())
	}
	return c, nil
}

// unexpected is an end of a stream within what was to come whole.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
