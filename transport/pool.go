package transport

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// PoolOptions is what a Pool does beyond keeping connections.
type PoolOptions struct {
	Protocol Protocol // required
	// Serve handles a connection of either origin from the moment it is established; ctx ends with the connection,
	// and the connection is closed when Serve returns. Nil: connections are only kept.
	Serve func(ctx context.Context, c *Conn)
	// OnState hears of every change of a link. Calls for one peer come one after another; none may block.
	OnState func(LinkState)
	// MinBackoff and MaxBackoff bound the pause between attempts to dial a peer: it doubles from one to the other and is
	// drawn from its upper half. Default 100 ms and 10 s. A failed attempt costs about 7 kB on a link that is dead but
	// metered, so an uplink there wants minutes.
	MinBackoff, MaxBackoff time.Duration
	// Rand draws the jitter. Default: the runtime's source.
	Rand *rand.Rand
	// AllowProxy takes proxies for an answer; see Target.
	AllowProxy bool
}

// State is how a link to a peer stands.
type State string

// The states of a link.
//
//	       dialed, or opened by the peer           an attempt without a packet back
//	Down ---------------------------------> Up ---------------------------------> Lost
//	 ^                                      | ^                                     |
//	 +---------- closed, timed out ---------+ +------- a packet, or a new dial -----+
const (
	Down State = "down"
	Up   State = "up"
	Lost State = "lost" // there is a connection, but nothing comes back
)

// LinkState is a link at one moment.
type LinkState struct {
	Node  string
	State State
	Conn  *Conn     // nil when Down
	Since time.Time // of State
	Err   error     // Down: why the last connection ended or the last dial failed; nil before the first
	Fails int       // dials that failed since there was a connection that held
	Next  time.Time // Down: of the next dial; zero: one is under way, or there is no address to dial
}

// Pool keeps one connection to each of a set of peers. It dials those with an address and takes what peers open; either
// kind serves both ways. Two connections of the same pair settle on one: see prefer.
type Pool struct {
	ep   *Endpoint
	opts PoolOptions

	wake chan struct{} // of Run: the set of links has changed. One place: a second change is seen along with the first

	randMu sync.Mutex
	rand   *rand.Rand

	mu     sync.Mutex
	closed bool
	links  map[string]*link
}

// Defaults and constants of pools.
const (
	defaultMinBackoff = 100 * time.Millisecond
	defaultMaxBackoff = 10 * time.Second
	// heldFor is how long a connection must live for the back-off to begin anew.
	heldFor = 10 * time.Second
	// redialAfter is how long a link stays lost before another connection is tried beside it. The old one is kept, and
	// probed, until the new one stands.
	redialAfter = 3 * time.Second
	// crossing is how far apart the two ends can see connections that were dialed at the same time: each handshake
	// takes up to ten seconds.
	crossing = 2 * handshakeMax
	// yield is how much later the larger node id dials first, so that two nodes that start together rarely cross.
	yield = 300 * time.Millisecond
)

// NewPool makes a pool and lets it serve the protocol on ep. Run runs it.
func NewPool(ep *Endpoint, opts PoolOptions) (*Pool, error) {
	if opts.Protocol == "" || opts.Protocol == Join {
		return nil, errors.New("transport: a pool needs a protocol between nodes with certificates")
	}
	opts.MinBackoff = orDefault(opts.MinBackoff, defaultMinBackoff)
	opts.MaxBackoff = max(orDefault(opts.MaxBackoff, defaultMaxBackoff), opts.MinBackoff)
	if opts.OnState == nil {
		opts.OnState = func(LinkState) {}
	}
	if opts.Serve == nil {
		opts.Serve = func(ctx context.Context, _ *Conn) { <-ctx.Done() }
	}
	if opts.Rand == nil {
		opts.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // jitter
	}
	p := &Pool{ep: ep, opts: opts, rand: opts.Rand, wake: make(chan struct{}, 1), links: make(map[string]*link)}
	ep.Listen(opts.Protocol, p.serveIncoming)
	return p, nil
}

// Set says which peers to keep a connection to, by node id, and where each may be found. Without an address the pool
// waits for the peer to connect. A peer that is no longer named is disconnected; a changed address is tried at once.
func (p *Pool) Set(peers map[string][]string) {
	p.mu.Lock()
	var removed []*link
	for node, l := range p.links {
		if _, ok := peers[node]; !ok && l.wanted {
			l.wanted = false
			removed = append(removed, l)
		}
	}
	var changed []*link
	for node, addrs := range peers {
		if node == p.ep.Node() {
			continue
		}
		l := p.linkLocked(node)
		l.wanted = true
		if l.setAddrs(addrs) {
			changed = append(changed, l)
		}
	}
	p.mu.Unlock()
	for _, l := range removed {
		l.drop(CodeDone, "no longer a peer")
	}
	for _, l := range changed {
		l.nudge()
	}
	p.nudge()
}

// Conn is the connection to a peer, or nil. It never blocks; the connection may be lost, see Conn.Lost.
func (p *Pool) Conn(node string) *Conn {
	p.mu.Lock()
	l := p.links[node]
	p.mu.Unlock()
	if l == nil {
		return nil
	}
	return l.current()
}

// Links is the state of every link, ordered by node.
func (p *Pool) Links() []LinkState {
	p.mu.Lock()
	states := make([]LinkState, 0, len(p.links))
	links := make([]*link, 0, len(p.links))
	for _, l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		states = append(states, l.lastState())
	}
	slices.SortFunc(states, func(a, b LinkState) int { return cmp.Compare(a.Node, b.Node) })
	return states
}

// Run keeps the links until ctx ends, then closes their connections and waits for Serve.
func (p *Pool) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for ctx.Err() == nil {
		for _, l := range p.idleLinks() {
			wg.Go(func() {
				l.run(ctx)
				p.retire(l)
			})
		}
		select {
		case <-p.wake:
		case <-ctx.Done():
		}
	}
	p.mu.Lock()
	p.closed = true
	links := make([]*link, 0, len(p.links))
	for _, l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	wg.Wait()
	for _, l := range links { // taken from peers since their goroutine ended
		l.drop(CodeShutdown, "the node is stopping")
	}
	return nil
}

func (p *Pool) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// idleLinks takes the links that have no goroutine yet.
func (p *Pool) idleLinks() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	var idle []*link
	for _, l := range p.links {
		if !l.started {
			l.started = true
			idle = append(idle, l)
		}
	}
	return idle
}

// retire forgets a link whose goroutine has ended, unless it is wanted again.
func (p *Pool) retire(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.started = false
	if !l.wanted && l.current() == nil || p.closed {
		delete(p.links, l.node)
		return
	}
	p.nudge()
}

func (p *Pool) linkLocked(node string) *link {
	l, ok := p.links[node]
	if !ok {
		l = newLink(p, node)
		p.links[node] = l
	}
	return l
}

// serveIncoming is the endpoint's handler: it offers the connection to its link and serves it if it is kept.
func (p *Pool) serveIncoming(_ context.Context, c *Conn) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		c.CloseWithError(CodeShutdown, "the node is stopping")
		return
	}
	l := p.linkLocked(c.peer.Node)
	p.mu.Unlock()
	kept, old := l.offer(c)
	p.nudge()
	if !kept || p.isClosed() {
		supersede(old)
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { l.settle(old, c) })
	p.opts.Serve(c.Context(), c)
	wg.Wait()
}

func (p *Pool) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// jitter draws from [d/2, d).
func (p *Pool) jitter(d time.Duration) time.Duration {
	p.randMu.Lock()
	defer p.randMu.Unlock()
	return d/2 + time.Duration(p.rand.Int64N(int64(max(d/2, 1))))
}
