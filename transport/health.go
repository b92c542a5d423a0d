package transport

import (
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// Health is how one connection is doing, for status, metrics and policies.
type Health struct {
	Node     string
	Role     Role
	Protocol Protocol
	Addr     string // where the peer is now
	Dialed   bool   // by this node
	Way      Way    // how packets travel now
	Age      time.Duration

	Lost   bool          // see Conn.Lost
	Losses uint64        // how often it became so
	Silent time.Duration // since the last packet, by the monotonic clock; up to 5 s too long on an idle link

	RTTMin, RTTLatest, RTTSmoothed, RTTDeviation time.Duration // zero: not measured yet
	CongestionWindow                             uint64        // bytes

	// Loss is a moving average of the share of packets sent that were declared lost, over about the last 100. It is
	// measured by the peer's acknowledgements. Packets that only acknowledge count as sent and are never found lost, so
	// a side that mostly listens sees too little.
	Loss                                      float64
	BytesSent, BytesReceived, BytesLost       uint64 // QUIC packets, without the 28 or 48 bytes of UDP and IP
	PacketsSent, PacketsReceived, PacketsLost uint64
	// WireBytes is what the link has carried both ways, with the headers of what is below QUIC, as whoever bills for it counts: to
	// the byte over UDP, about so over TCP. Of a connection that stays on this machine it is 0.
	WireBytes                       uint64
	DatagramsSent, DatagramsDropped uint64
	DatagramsQueued                 int
}

// Health takes stock now. It never blocks on the link.
func (c *Conn) Health() Health {
	c.monitor.sample()
	s := c.qc.ConnectionStats()
	lost, _ := c.monitor.state()
	heard, losses := c.monitor.lastHeard()
	h := Health{
		Node: c.peer.Node, Role: c.peer.Role, Protocol: c.protocol, Addr: c.RemoteAddr().String(), Dialed: c.dialed, Way: c.Way(),
		Age: time.Since(c.opened), Lost: lost, Losses: losses, Silent: time.Since(heard),
		RTTMin: s.MinRTT, RTTLatest: s.LatestRTT, RTTSmoothed: s.SmoothedRTT, RTTDeviation: s.MeanDeviation,
		CongestionWindow: s.CongestionWindow,
		Loss:             c.loss.add(s),
		BytesSent:        s.BytesSent, BytesReceived: s.BytesReceived, BytesLost: s.BytesLost,
		PacketsSent: s.PacketsSent, PacketsReceived: s.PacketsReceived, PacketsLost: s.PacketsLost,
	}
	h.DatagramsSent, h.DatagramsDropped, h.DatagramsQueued = c.datagrams.counts()
	h.WireBytes = wireBytes(h)
	return h
}

// What is on the wire besides QUIC, in bytes.
const (
	headersIPv4 = 20
	headersIPv6 = 40
	headersUDP  = 8
	// Of a packet over TCP: TCP's header with timestamps, that of TLS with its tag, the length; and a segment that acknowledges two.
	headersTCP = 32 + 22 + 2 + 26
	// failedDial is what a dial takes that nobody answers: an Initial of 1200 bytes, sent again until handshakeIdle is over.
	failedDial = 7 << 10
)

func wireBytes(h Health) uint64 {
	at, err := netip.ParseAddrPort(h.Addr)
	if err != nil || at.Addr().IsLoopback() {
		return 0
	}
	headers := uint64(headersIPv6)
	if at.Addr().Unmap().Is4() {
		headers = headersIPv4
	}
	if h.Way == OverTCP {
		headers += headersTCP
	} else {
		headers += headersUDP
	}
	return h.BytesSent + h.BytesReceived + headers*(h.PacketsSent+h.PacketsReceived)
}

// lossWindow is how many packets the loss average reaches back, about: enough to tell 1 % from 5 %, and at 20 packets a
// second old after five seconds.
const lossWindow = 100

// lossAverage is an exponential moving average over packets, not over time, so that it does not depend on how often it
// is asked.
type lossAverage struct {
	mu         sync.Mutex
	sent, lost uint64
	average    float64
}

func (l *lossAverage) add(s quic.ConnectionStats) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	sent := s.PacketsSent - l.sent
	if sent == 0 || s.PacketsSent < l.sent {
		return l.average
	}
	// A packet declared lost may still arrive, and then the counter goes back.
	lost := 0.0
	if s.PacketsLost > l.lost {
		lost = float64(s.PacketsLost - l.lost)
	}
	weight := 1 - math.Exp(-float64(sent)/lossWindow)
	l.average += weight * (min(lost/float64(sent), 1) - l.average)
	l.sent, l.lost = s.PacketsSent, s.PacketsLost
	return l.average
}
