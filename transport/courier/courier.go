package courier

import (
	"sync"
	"time"
)

// Path is a way to the peer on which datagrams may be lost. Its methods are called with the courier's lock held and must
// not block.
type Path interface {
	// SendDatagram sends b, which is the path's from now on.
	SendDatagram(b []byte) error
	// Quality is how the path is doing.
	Quality() Quality
}

// Quality is how a path is doing.
type Quality struct {
	RTT    time.Duration // smoothed; 0: not known yet
	Loss   float64       // share of packets lost, as the path itself sees it
	Queued int           // datagrams that wait to be sent
	Lost   bool          // nothing comes back
}

// Care is how much a message matters.
type Care uint8

const (
	// Once is for what is made up for by the next of its kind: it is sent once.
	Once Care = iota
	// Sure is for what is sent until it is acknowledged, for ten seconds at most, and in copies.
	Sure
	// Vital is for what somebody waits for and which has only this one way: from 3 % of loss on it gets a copy more.
	Vital
)

// Options is what a Courier needs; the zero value of each field but Life is the default named.
type Options struct {
	Life Life // of this node, drawn at its start

	// Dialect, of at most MaxDialect, says which messages this node reads: the peer is told with each datagram. What it means is for
	// those who write and read messages.
	Dialect     int
	MaxDatagram int // bytes; default 1160
	// Budget bounds what copies and repeats may take, in bytes per second. Default 256 KiB: 2 Mbit/s.
	Budget int
	// Sparing reports whether copies and repeats are to be left out. It must not block. Nil: they never are.
	Sparing func() bool
}

// Times and limits.
const (
	// retryRTTs is how many smoothed round trips a message waits for its acknowledgement, and never less than retrySlack
	// more than one: the peer's acknowledgement itself may be ackDelay late.
	retryRTTs  = 1.25
	retrySlack = 10 * time.Millisecond
	// ackDelay is how long an acknowledgement waits for a message to go with.
	ackDelay = 5 * time.Millisecond
	// ackEvery is how many datagrams are acknowledged at once, whatever the delay.
	ackEvery = 16
	// rttUnknown stands in for a round trip that has not been measured.
	rttUnknown = 100 * time.Millisecond

	retryMax = time.Second // between attempts: they back off by half each time
	lifeMax  = 10 * time.Second
	// maxWaiting and maxWaitingBytes bound what waits for an acknowledgement. Beyond, Send takes nothing.
	maxWaiting      = 1024
	maxWaitingBytes = 1 << 20
	// burstBytes bounds what waits beside messages that are taken together: what is long and often is better off on a stream.
	burstBytes = 64 << 10

	// Copies within one instant on one path would share a packet, and within a run of losses a fate.
	copyGapLeast = 2 * time.Millisecond
	copyGapMost  = 15 * time.Millisecond

	// maxRepeats and repeatMax bound the earlier messages that a datagram repeats: short ones, as acknowledgements of
	// entries are. To repeat the entries too took more bytes than a third copy and made no measured difference.
	maxRepeats = 2
	repeatMax  = 100

	// A datagram without an acknowledgement is lost once a later one has been acknowledged, and it is this old.
	lostAfterRetries = 2
	forgetAfter      = 30 * time.Second

	// A link on which a round trip takes crowdedRTTs times the shortest of the last minutes, and crowdedLeast more than it, has a
	// queue. What is lost there was too much, and copies of it would be more.
	crowdedRTTs  = 1.5
	crowdedLeast = 200 * time.Millisecond
	leastSpan    = 5 * time.Minute

	// ownSamples is how many round trips of the courier's own are looked at, of which the shortest counts, and ownFresh
	// for how long. A connection of quic-go whose round trip grows by more than its timeout, from one moment to the next,
	// measures no more: it takes each packet for lost before the acknowledgement comes.
	ownSamples = 4
	ownFresh   = 10 * time.Second

	qualityEvery = 100 * time.Millisecond
	rateEvery    = time.Second
	carriedSpan  = 10 * time.Second

	// Paths: enough for the congestion window of two packets to which a lossy one falls, and one more than one.
	pathWindow = 3000
	// pathLeast is how many bytes a second, of those that arrive, a path beyond minPaths is worth at least: its handshake takes 5 kB, a
	// second of a link of 50 kbit/s.
	pathLeast = 4 << 10
	// farRTT is how long a round trip is of a link that may be a thin one. There the second path is only made for as much as one
	// beyond it is elsewhere: with little to send one does as well, since copies leave an instant later.
	farRTT   = 200 * time.Millisecond
	minPaths = 2
	maxPaths = 8
	// idleAfter is how long paths stay that are no longer needed.
	idleAfter = time.Minute
)

// Courier takes messages to one peer. All methods may be called concurrently.
type Courier struct {
	opts Options
	wake chan struct{} // of Run. One place

	mu       sync.Mutex
	paths    []*path
	number   uint64   // of the last datagram
	flights  []flight // ring, by number
	oldest   uint64   // number of the oldest flight that may still be open
	waiting  []*message
	bytes    int // in waiting
	meter    lossMeter
	in       received
	greeted  time.Time
	acked    account   // the last one that came
	ackAt    time.Time // zero: nothing to acknowledge
	ackCount int
	armed    time.Time // when Run looks again; zero: when woken
	tokens   float64   // of the budget
	filled   time.Time
	stats    Stats

	rtt      time.Duration
	crowded  bool
	least    [2]time.Duration // shortest round trips of this leastSpan and of the one before; 0: none
	leastAt  time.Time
	own      [ownSamples]time.Duration
	owned    int // of own, so far
	ownAt    time.Time
	pathLoss float64
	looked   time.Time
	lost     bool

	carried   [2]float64 // most bytes a second that arrived in a rateEvery of this carriedSpan and of the one before, without a queue
	carriedAt time.Time
	rateBytes int // sent, and of those known to have arrived, since rateSince
	arrived   int
	rateSince time.Time
	need      int // paths, by the last measured rate
	wanted    int
	theirs    int // what the peer wants
	dialect   int // of the peer
	lowSince  time.Time
	busy      time.Time // when something that matters was last sent
	changed   chan struct{}
}

type path struct {
	Path
	used uint64 // number of the last datagram sent on it
}

// message waits for its acknowledgement.
type message struct {
	body    []byte
	care    Care
	first   time.Time
	retryAt time.Time
	wait    time.Duration // before the next attempt
	copies  int           // still to send
	copyAt  time.Time
	done    bool
}

// flight is a datagram under way.
type flight struct {
	number uint64
	at     time.Time
	held   []*message
	size   int
	open   bool // neither acknowledged nor lost
	lost   bool
}

// leastFlights and maxFlights are how many datagrams are remembered. What is lost is known two and a half round trips later, so there are more as
// a long link with much to send asks for it, up to 5,000 a second at 600 ms, of 72 bytes each. One that is forgotten counts neither as lost nor as
// arrived: with too few of them the measured loss is that of none, and no copies are made.
const (
	leastFlights = 512
	maxFlights   = 8192
)

// Stats is what a courier has done. Bytes are of datagrams, without QUIC, UDP and IP.
type Stats struct {
	Messages      uint64 // that matter, and others
	First         uint64 // bytes of datagrams with a message for the first time
	Copies        uint64 // bytes of copies
	Repeats       uint64 // bytes of repeats within other datagrams
	Retries       uint64 // bytes of attempts after the first
	Acks          uint64 // bytes of datagrams with nothing but an account
	RetriedCount  uint64 // attempts after the first
	GivenUp       uint64 // messages that were never acknowledged
	Refused       uint64 // messages for which there was no room
	Loss          float64
	Bursty        bool
	Level         int
	CopiesNow     int // of what matters
	Paths, Wanted int
	RTT           time.Duration
	Waiting       int
}

// New makes a courier without paths.
func New(o Options) *Courier {
	if o.MaxDatagram == 0 {
		o.MaxDatagram = 1160
	}
	if o.Budget == 0 {
		o.Budget = 256 << 10
	}
	return &Courier{opts: o, wake: make(chan struct{}, 1), changed: make(chan struct{}), oldest: 1, tokens: float64(o.Budget)}
}

// MaxMessage is the longest message.
func (c *Courier) MaxMessage() int { return c.opts.MaxDatagram - maxHeader - 2 }

// Attach adds a path, until detach is called.
func (c *Courier) Attach(p Path) (detach func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := &path{Path: p}
	c.paths = append(c.paths, own)
	c.looked = time.Time{}
	c.greet(own)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i, q := range c.paths {
			if q == own {
				c.paths = append(c.paths[:i:i], c.paths[i+1:]...)
			}
		}
		c.looked = time.Time{}
	}
}

// greet makes the two ends known to each other.
func (c *Courier) greet(p *path) {
	c.greeted = time.Now()
	c.account(p)
}

// Link is what is known of the link: the smoothed round trip, 0 if it has not been measured, and the larger of the
// losses that the courier and its paths see.
func (c *Courier) Link() (rtt time.Duration, loss float64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(time.Now())
	loss = c.pathLoss
	if c.meter.level > levelPlain {
		loss = max(loss, c.meter.share)
	}
	return c.rtt, loss, len(c.paths) > 0 && !c.lost
}

// Carries is how many bytes of messages a second the link carries at least, with the copies that go along now: the most that arrived in
// one of the last ten to twenty seconds in which it had no queue.
func (c *Courier) Carries() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ageCarried(time.Now())
	return max(c.carried[0], c.carried[1]) / float64(c.meter.copies())
}

// Wanted is how many paths the two ends want, none or from 2 to 8, and a channel that is closed when that changes.
func (c *Courier) Wanted() (paths int, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.wanted, c.theirs), c.changed
}

// Dialect is that of the present life of the peer; 0 until something of it has come.
func (c *Courier) Dialect() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dialect
}

// Stats takes stock.
func (c *Courier) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Loss, s.Bursty, s.Level, s.CopiesNow = c.meter.share, c.meter.bursty, c.meter.level, c.meter.copies()
	s.Paths, s.Wanted, s.RTT, s.Waiting = len(c.paths), max(c.wanted, c.theirs), c.rtt, len(c.waiting)
	return s
}
