package transport

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"holdfast/transport/courier"
)

// Conn is a connection to a peer. All methods may be called concurrently. Errors of its methods say why it ended once it
// has: *CloseError, *RefusedError, ErrUnreachable, ErrRestarted.
type Conn struct {
	qc        *quic.Conn
	protocol  Protocol
	peer      PeerInfo
	authority []byte // DER of the CA that proves the peer
	dialed    bool
	opened    time.Time

	monitor   *monitor
	datagrams datagramQueue
	wg        sync.WaitGroup // the goroutine of datagrams, and that of changeWays
	loss      lossAverage
	rest      rest
	confirmed <-chan struct{} // dialed: closed when the peer has let this node in; accepted: at the end of the handshake

	tcp    tcpSide // dialed only
	relays *relays // accepted only: knows which peers come over TCP
}

func newConn(qc *quic.Conn, p Protocol, peer PeerInfo, authority []byte, dialed bool) *Conn {
	c := &Conn{qc: qc, protocol: p, peer: peer, authority: authority, dialed: dialed, opened: time.Now()}
	c.datagrams.send = qc.SendDatagram
	c.datagrams.wg = &c.wg
	c.monitor = newMonitor(c.linkCount, c.probe)
	return c
}

// Peer is who is at the other end.
func (c *Conn) Peer() PeerInfo { return c.peer.clone() }

// CACertificate is the CA that proves the peer, in DER: what a joining node, which pinned it by hash, keeps.
func (c *Conn) CACertificate() []byte { return c.authority }

// Protocol is what the connection is for.
func (c *Conn) Protocol() Protocol { return c.protocol }

// Dialed reports whether this node opened the connection.
func (c *Conn) Dialed() bool { return c.dialed }

// RemoteAddr is where the peer is now; it changes when the peer's address does.
func (c *Conn) RemoteAddr() net.Addr {
	a, _ := c.relays.origin(c.qc.RemoteAddr())
	return a
}

// Way is how packets travel now. It can change while the connection lives.
func (c *Conn) Way() Way {
	if c.dialed {
		return c.tcp.way()
	}
	if _, ok := c.relays.origin(c.qc.RemoteAddr()); ok {
		return OverTCP
	}
	return OverUDP
}

// Context ends with the connection.
func (c *Conn) Context() context.Context { return c.qc.Context() }

// Err is nil while the connection lives, then why it ended. Streams may tell an instant earlier.
func (c *Conn) Err() error {
	if c.qc.Context().Err() == nil {
		return nil
	}
	return closeCause(c.qc.Context())
}

// Confirm waits until it is certain who is at the other end. For a connection that this node dialed that is when the peer
// has let it in: Dial waits for that unless told not to, and what is sent before is lost if the peer refuses. For one that a
// peer opened it is at once, unless its first data came with its first packet: that may be a copy of what the peer has
// sent once before, and only what does no harm when done twice may be done before Confirm returns.
func (c *Conn) Confirm(ctx context.Context) error {
	if c.confirmed == nil {
		return c.Err()
	}
	select {
	case <-c.confirmed:
		return c.Err() // let in, and perhaps sent away for want of a place
	case <-c.qc.Context().Done():
		return c.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Early reports whether Confirm would wait.
func (c *Conn) Early() bool {
	if c.confirmed == nil {
		return false
	}
	select {
	case <-c.confirmed:
		return false
	default:
		return true
	}
}

// CloseWithError ends the connection at once: what is under way is lost. The peer sees code and reason, of which at most
// 512 bytes travel. Of several closes the first counts.
func (c *Conn) CloseWithError(code CloseCode, reason string) {
	_ = c.qc.CloseWithError(quic.ApplicationErrorCode(code), clipReason(reason)) // always nil
}

// OpenStream opens a bidirectional stream. It blocks while the peer's limit of open streams is reached. The peer learns
// of the stream by the first byte.
func (c *Conn) OpenStream(ctx context.Context) (*Stream, error) {
	s, err := c.qc.OpenStreamSync(ctx)
	if err != nil {
		return nil, explain(err)
	}
	return c.stream(s), nil
}

// AcceptStream waits for a bidirectional stream that the peer opens.
func (c *Conn) AcceptStream(ctx context.Context) (*Stream, error) {
	s, err := c.qc.AcceptStream(ctx)
	if err != nil {
		return nil, explain(err)
	}
	return c.stream(s), nil
}

func (c *Conn) stream(s *quic.Stream) *Stream {
	return &Stream{SendStream{c, s}, ReceiveStream{c, s}}
}

// OpenUniStream opens a stream that only this side writes. It blocks as OpenStream does.
func (c *Conn) OpenUniStream(ctx context.Context) (*SendStream, error) {
	s, err := c.qc.OpenUniStreamSync(ctx)
	if err != nil {
		return nil, explain(err)
	}
	return &SendStream{c, s}, nil
}

// AcceptUniStream waits for a stream that only the peer writes.
func (c *Conn) AcceptUniStream(ctx context.Context) (*ReceiveStream, error) {
	s, err := c.qc.AcceptUniStream(ctx)
	if err != nil {
		return nil, explain(err)
	}
	return &ReceiveStream{c, s}, nil
}

// SendDatagram queues p, 1 to MaxDatagram bytes, and never blocks. A datagram is delivered at most once, or not at all,
// and the sender does not learn which. When 64 wait, the oldest makes room: the newest wins. p belongs to the connection
// until it ends.
func (c *Conn) SendDatagram(p []byte) error {
	if len(p) == 0 || len(p) > MaxDatagram {
		return fmt.Errorf("send a datagram of %d bytes: %w: want 1 to %d", len(p), ErrTooLarge, MaxDatagram)
	}
	if err := c.Err(); err != nil {
		return err
	}
	c.monitor.attempt()
	c.datagrams.put(p)
	return nil
}

// ReceiveDatagram waits for a datagram. 128 wait for the receiver, further ones are dropped.
func (c *Conn) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	for {
		p, err := c.qc.ReceiveDatagram(ctx)
		if err != nil {
			return nil, explain(err)
		}
		if string(p) != probeText && (c.protocol != Uplink || string(p) != keepText) {
			return p, nil
		}
	}
}

// Quality is how the connection is doing as a path of a courier. It costs little.
func (c *Conn) Quality() courier.Quality {
	s := c.qc.ConnectionStats()
	lost, _ := c.monitor.state()
	_, _, queued := c.datagrams.counts()
	return courier.Quality{RTT: s.SmoothedRTT, Loss: c.loss.add(s), Queued: queued, Lost: lost}
}

// Sample is the round trip that was measured last, 0 for none, and how many packets have come.
func (c *Conn) Sample() (rtt time.Duration, packets uint64) {
	s := c.qc.ConnectionStats()
	if s.MeanDeviation == 0 && s.LatestRTT == s.MinRTT {
		return 0, s.PacketsReceived // what quic-go begins with
	}
	return s.LatestRTT, s.PacketsReceived
}

// probeText is the datagram that asks for a sign of life. It is acknowledged like any other and handed to nobody. Its
// length makes a packet of more than 42 bytes, which is what a peer that has restarted answers with a stateless reset.
const probeText = "holdfast: are you alive?"

// Probe asks the peer for a sign of life: if none comes in time, the link is lost. It costs about 150 bytes on the wire
// with the answer, and never blocks.
func (c *Conn) Probe() {
	c.monitor.attempt()
	c.probe()
}

func (c *Conn) probe() { c.datagrams.put([]byte(probeText)) }

// Lost reports whether the link is lost: something was sent and no packet has come back for max(1 s, 4 srtt). The next
// packet clears it. A quiet link is not lost.
func (c *Conn) Lost() bool {
	lost, _ := c.monitor.state()
	return lost
}

// LossState is Lost and a channel that is closed when Lost changes.
func (c *Conn) LossState() (lost bool, changed <-chan struct{}) { return c.monitor.state() }

func (c *Conn) linkCount() linkCount {
	s := c.qc.ConnectionStats()
	return linkCount{received: s.PacketsReceived, sent: s.PacketsSent, srtt: s.SmoothedRTT}
}

// end lets go of everything after qc has ended.
func (c *Conn) end() {
	c.monitor.close()
	c.datagrams.close()
	c.wg.Wait()
}
