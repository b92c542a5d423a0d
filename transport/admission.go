package transport

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/quic-go/quic-go"
)

// Bounds on what others can make this node hold.
const (
	defaultMaxConns      = 16384 // incoming: ten thousand proxies and room to reconnect; about 60 kB each
	defaultMaxHandshakes = 256   // under way at once; a handshake costs about 1 ms of CPU and lasts an RTT

	// Above a quarter of MaxHandshakes an address must prove itself by a Retry first, which costs its owner one round
	// trip and this node nothing but the packet.
	retryShare = 4
	// A sixteenth of MaxConns is kept for members, whatever proxies and joining nodes take.
	memberShare = 16
	// maxJoins bounds connections of nodes without a certificate: anybody can open one.
	maxJoins = 32

	// windowBudget bounds what all connections together may grow their receive windows by, beyond the initial 96 KiB
	// each. When it is spent, windows stay as they are: slower, never refused.
	windowBudget = 128 << 20
)

// admission counts incoming connections and decides which are too many. Established connections are never dropped to
// make room: the newcomer is refused, and told so.
type admission struct {
	maxConns, maxHandshakes int

	mu          sync.Mutex
	conns       int // incoming ones, from the first packet to the end
	handshaking int // of those, not accepted yet
	strangers   int // of those, proxies and joins
	joins       int
	retries     uint64
	busy        uint64
	full        uint64
	windows     map[*quic.Conn]uint64 // growth granted to each connection
	windowSum   uint64
}

var errBusy = errors.New("too many connections")

// attempt is one incoming connection on its way through. It travels in the connection's context.
type attempt struct {
	addr     net.Addr
	state    attemptState
	protocol Protocol
	stranger bool
}

type attemptState uint8

const (
	handshaking attemptState = iota
	accepted
	gone
)

type attemptKey struct{}

// mustValidate reports whether an unproven address has to go through a Retry.
func (a *admission) mustValidate() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.handshaking < a.maxHandshakes/retryShare {
		return false
	}
	a.retries++
	return true
}

// begin counts a connection attempt in, or refuses it.
func (a *admission) begin(addr net.Addr) (*attempt, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conns >= a.maxConns || a.handshaking >= a.maxHandshakes {
		a.busy++
		return nil, errBusy
	}
	a.conns++
	a.handshaking++
	return &attempt{addr: addr}, nil
}

// accept moves an attempt past its handshake, or finds that there is no place for such a peer.
func (a *admission) accept(t *attempt, p Protocol, role Role) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.state != handshaking {
		return false // has ended meanwhile
	}
	a.handshaking--
	t.state, t.protocol, t.stranger = accepted, p, role != Member
	if p.anonymous() {
		a.joins++
	}
	if t.stranger {
		a.strangers++
	}
	if t.stranger && a.strangers > a.maxConns-a.maxConns/memberShare || a.joins > maxJoins && p.anonymous() {
		a.full++
		return false
	}
	return true
}

// end counts an attempt out, at whatever point it was, and tells whether its handshake had not finished.
func (a *admission) end(t *attempt) (failed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	failed = t.state == handshaking
	switch t.state {
	case handshaking:
		a.handshaking--
	case accepted:
		if t.protocol.anonymous() {
			a.joins--
		}
		if t.stranger {
			a.strangers--
		}
	case gone:
		return false
	}
	a.conns--
	t.state = gone
	return failed
}

func attemptOf(ctx context.Context) *attempt {
	t, _ := ctx.Value(attemptKey{}).(*attempt)
	return t
}

// track opens a connection's account of receive windows; grow serves open accounts only.
func (a *admission) track(qc *quic.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.windows[qc] = 0
}

// grow grants a connection a larger receive window out of the common budget.
func (a *admission) grow(qc *quic.Conn, delta uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	granted, open := a.windows[qc]
	if !open || a.windowSum+delta > windowBudget {
		return false
	}
	a.windows[qc] = granted + delta
	a.windowSum += delta
	return true
}

// untrack gives back what grow granted, when the connection has ended.
func (a *admission) untrack(qc *quic.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.windowSum -= a.windows[qc]
	delete(a.windows, qc)
}
