package courier

import (
	"context"
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

	MaxDatagram int // bytes; default 1160
	// Budget bounds what copies and repeats may take, in bytes per second. Default 256 KiB: 2 Mbit/s.
	Budget int
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

	qualityEvery = 100 * time.Millisecond
	rateEvery    = time.Second

	// Paths: enough for the congestion window of two packets to which a lossy one falls, and one more than one.
	pathWindow = 3000
	minPaths   = 2
	maxPaths   = 8
	// idleAfter is how long paths stay that are no longer needed.
	idleAfter = time.Minute
)

// Courier takes messages to one peer. All methods may be called concurrently.
type Courier struct {
	opts Options
	wake chan struct{} // of Run. One place

	mu       sync.Mutex
	paths    []*path
	number   uint64 // of the last datagram
	flights  []flight
	oldest   uint64 // number of the oldest flight that may still be open
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
	pathLoss float64
	looked   time.Time
	lost     bool

	rateBytes int
	rateSince time.Time
	need      int // paths, by the last measured rate
	wanted    int
	theirs    int // what the peer wants
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
	open   bool // neither acknowledged nor lost
	lost   bool
}

// maxFlights is how many datagrams are remembered: at 2,000 a second those of a quarter of a second.
const maxFlights = 512

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

// Send takes a message, of at most MaxMessage bytes, which is the courier's from now on. It tells whether the message was
// taken: it is not without a path that works, nor when too much waits.
func (c *Courier) Send(body []byte, care Care) bool {
	if len(body) == 0 || len(body) > c.MaxMessage() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.look(now)
	if !c.in.account.known && len(c.paths) > 0 && now.Sub(c.greeted) >= c.retryWait() {
		c.greet(c.pick(nil))
	}
	if len(c.paths) == 0 || c.lost || !c.in.account.known || care > Once && (len(c.waiting) >= maxWaiting || c.bytes+len(body) > maxWaitingBytes) {
		c.stats.Refused++
		return false
	}
	c.stats.Messages++
	m := &message{body: body, care: care, first: now}
	if care == Once {
		c.stats.First += uint64(c.transmit(now, m, nil, false))
		return true
	}
	c.busy = now
	m.wait = c.retryWait()
	m.retryAt = now.Add(m.wait)
	c.waiting = append(c.waiting, m)
	c.bytes += len(body)
	p := c.pick(nil)
	c.stats.First += uint64(c.transmit(now, m, p, true))
	c.copy(now, m, p)
	c.plan(now)
	c.arm(c.due(m))
	return true
}

// copy sends the copies that the loss asks for, or sets when.
func (c *Courier) copy(now time.Time, m *message, first *path) {
	m.copies = c.meter.copies() - 1
	if m.care == Vital && c.meter.level >= levelRepeat {
		m.copies++
	}
	if m.copies == 0 {
		return
	}
	m.copyAt = now.Add(c.copyGap())
	if c.meter.bursty || len(c.paths) < 2 {
		return
	}
	m.copies--
	c.spend(now, m, c.pick(first))
}

// copyGap is a tenth of a round trip, which costs the latest copy little.
func (c *Courier) copyGap() time.Duration {
	return min(max(c.rtt/10, copyGapLeast), copyGapMost)
}

// spend sends a copy if the budget has it.
func (c *Courier) spend(now time.Time, m *message, p *path) {
	if !c.afford(now, len(m.body)+maxHeader/2) {
		return
	}
	c.stats.Copies += uint64(c.transmit(now, m, p, false))
}

func (c *Courier) afford(now time.Time, n int) bool {
	budget := float64(c.opts.Budget)
	c.tokens = min(budget, c.tokens+now.Sub(c.filled).Seconds()*budget)
	c.filled = now
	if c.tokens < float64(n) {
		return false
	}
	c.tokens -= float64(n)
	return true
}

// retryWait is how long a message waits for its acknowledgement.
func (c *Courier) retryWait() time.Duration {
	rtt := c.rtt
	if rtt == 0 {
		rtt = rttUnknown
	}
	return max(time.Duration(retryRTTs*float64(rtt)), rtt+retrySlack)
}

// Hold is how long whoever wants messages in order waits for a missing one: until it would have come at the second
// attempt.
func (c *Courier) Hold() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(time.Now())
	return c.retryWait() + ackDelay
}

// transmit sends a datagram with a message on a path, any if it is nil, and returns its size without repeats. Where the loss asks for
// it, earlier messages go along.
func (c *Courier) transmit(now time.Time, m *message, p *path, repeats bool) int {
	if p == nil {
		if p = c.pick(nil); p == nil {
			return 0
		}
	}
	h := c.header()
	h.patient = m.care == Once
	b := make([]byte, 0, min(c.opts.MaxDatagram, maxHeader+len(m.body)+2))
	b = appendMessage(h.append(b), m.body)
	own := len(b)
	held := []*message{m}
	if repeats && c.meter.level >= levelRepeat {
		b, held = c.repeat(now, b, held)
	}
	c.fly(now, held)
	p.used = c.number
	c.rateBytes += len(b)
	_ = p.SendDatagram(b) // one that has ended loses it, as any may
	return own
}

// repeat adds earlier messages that are not acknowledged yet, the latest first.
func (c *Courier) repeat(now time.Time, b []byte, held []*message) ([]byte, []*message) {
	for i := len(c.waiting) - 1; i >= 0 && len(held) <= maxRepeats; i-- {
		m := c.waiting[i]
		if m.done || m == held[0] || len(m.body) > repeatMax {
			continue
		}
		if now.Sub(m.first) > c.rtt || len(b)+frameSize(m.body) > c.opts.MaxDatagram || !c.afford(now, frameSize(m.body)) {
			break
		}
		c.stats.Repeats += uint64(frameSize(m.body))
		b = appendMessage(b, m.body)
		held = append(held, m)
	}
	return b, held
}

func (c *Courier) header() header {
	c.number++
	c.ackAt, c.ackCount = time.Time{}, 0
	return header{wanted: c.wanted, life: c.opts.Life, number: c.number, account: c.in.account}
}

// fly remembers a datagram under way.
func (c *Courier) fly(now time.Time, held []*message) {
	if c.flights == nil {
		c.flights = make([]flight, maxFlights)
	}
	c.flights[c.number%maxFlights] = flight{number: c.number, at: now, held: held, open: true}
}

func (c *Courier) flight(number uint64) *flight {
	if c.flights == nil {
		return nil
	}
	if f := &c.flights[number%maxFlights]; f.number == number {
		return f
	}
	return nil
}

// pick chooses the path with the least waiting on it, then the one that was used longest ago, and not the one named if
// there is another.
func (c *Courier) pick(not *path) *path {
	var best *path
	var queued int
	for _, p := range c.paths {
		if p == not && len(c.paths) > 1 {
			continue
		}
		q := p.Quality()
		n := q.Queued
		if q.Lost {
			n += 1 << 20
		}
		if best == nil || n < queued || n == queued && p.used < best.used {
			best, queued = p, n
		}
	}
	return best
}

// look asks the paths how they are doing, now and then.
func (c *Courier) look(now time.Time) {
	if !c.looked.IsZero() && now.Sub(c.looked) < qualityEvery {
		return
	}
	c.looked = now
	c.rtt, c.pathLoss, c.lost = 0, 0, true
	for _, p := range c.paths {
		q := p.Quality()
		if q.RTT > 0 && (c.rtt == 0 || q.RTT < c.rtt) {
			c.rtt = q.RTT
		}
		c.pathLoss = max(c.pathLoss, q.Loss)
		c.lost = c.lost && q.Lost
	}
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

// Receive takes a datagram of the peer apart. It returns the life of the sender and the messages, parts of b; none if
// the datagram has come before or is left over from an earlier life. An error says that the peer does not keep to the
// format.
func (c *Courier) Receive(b []byte) (Life, [][]byte, error) {
	h, messages, err := parse(b)
	if err != nil {
		return Life{}, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	mine := h.account.known && h.account.tag == [4]byte(c.opts.Life[:4])
	if mine {
		c.settle(now, h.account)
	}
	if h.wanted != c.theirs {
		c.theirs = min(h.wanted, maxPaths)
		c.tell()
	}
	present, begun, again := c.in.take(h, now)
	if begun { // the peer has started anew: what its earlier life may have had is not for this one
		c.forget()
	}
	if !h.account.known && present {
		c.acknowledge()
	}
	if !present || !mine || len(messages) == 0 {
		return h.life, nil, nil
	}
	if h.patient {
		if again {
			messages = nil
		}
		return h.life, messages, nil
	}
	c.ackCount++
	if c.ackAt.IsZero() {
		c.ackAt = now.Add(ackDelay)
		c.arm(c.ackAt)
	}
	if c.ackCount >= ackEvery {
		c.acknowledge()
	}
	if again {
		return h.life, nil, nil
	}
	return h.life, messages, nil
}

// settle takes note of what the peer has.
func (c *Courier) settle(now time.Time, a account) {
	if a.largest > c.number {
		return // nobody has sent that
	}
	if a == c.acked {
		return
	}
	c.acked = a
	for n := a.largest; n >= 1 && n+64 >= a.largest; n-- {
		f := c.flight(n)
		if f == nil || !f.open || !a.has(n) {
			continue
		}
		f.open = false
		for _, m := range f.held {
			c.finish(m)
		}
		f.held = nil
		c.meter.arrived()
	}
	c.expire(now)
	c.sweep()
}

func (c *Courier) finish(m *message) {
	if !m.done {
		m.done = true
	}
}

// sweep takes out what needs no more attention.
func (c *Courier) sweep() {
	kept := c.waiting[:0]
	for _, m := range c.waiting {
		if m.done {
			c.bytes -= len(m.body)
			continue
		}
		kept = append(kept, m)
	}
	clear(c.waiting[len(kept):])
	c.waiting = kept
}

// expire finds the datagrams that were lost.
func (c *Courier) expire(now time.Time) {
	limit := lostAfterRetries * c.retryWait()
	if c.oldest+maxFlights <= c.number {
		c.oldest = c.number - maxFlights + 1
	}
	for ; c.oldest <= c.number; c.oldest++ {
		f := c.flight(c.oldest)
		if f == nil || !f.open {
			continue
		}
		age := now.Sub(f.at)
		if age > forgetAfter {
			f.open, f.held = false, nil // nobody knows
			continue
		}
		if age < limit || c.acked.largest <= f.number {
			return
		}
		f.open, f.lost, f.held = false, true, nil
		before := c.flight(f.number - 1)
		c.meter.lost(before != nil && before.lost)
	}
}

// acknowledge sends an account by itself.
func (c *Courier) acknowledge() {
	p := c.pick(nil)
	if p == nil {
		c.ackAt, c.ackCount = time.Time{}, 0
		return
	}
	c.account(p)
}

// forget gives up what is under way.
func (c *Courier) forget() {
	c.stats.GivenUp += uint64(len(c.waiting))
	for _, m := range c.waiting {
		c.finish(m)
	}
	c.sweep()
	c.acked, c.ackAt, c.ackCount = account{}, time.Time{}, 0
}

func (c *Courier) account(p *path) {
	b := c.header().append(make([]byte, 0, maxHeader))
	c.stats.Acks += uint64(len(b))
	c.rateBytes += len(b)
	p.used = c.number
	_ = p.SendDatagram(b) // as in transmit
}

func (c *Courier) due(m *message) time.Time {
	if m.copies > 0 && m.copyAt.Before(m.retryAt) {
		return m.copyAt
	}
	return m.retryAt
}

// arm makes Run look no later than at.
func (c *Courier) arm(at time.Time) {
	if c.armed.IsZero() || at.Before(c.armed) {
		c.armed = at
		c.nudge()
	}
}

func (c *Courier) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run sends what is due, until ctx ends. More than one may run: one does.
func (c *Courier) Run(ctx context.Context) {
	defer c.nudge() // another may go on
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var timerC <-chan time.Time
		if next := c.service(); !next.IsZero() {
			timer.Reset(time.Until(next))
			timerC = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timerC:
		}
	}
}

// service sends what is due and returns when to look again; zero: not before something happens.
func (c *Courier) service() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.look(now)
	var next time.Time
	sooner := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	swept := false
	for _, m := range c.waiting {
		if !m.done {
			c.attend(now, m)
		}
		if m.done {
			swept = true
			continue
		}
		sooner(c.due(m))
	}
	if swept {
		c.sweep()
	}
	if !c.ackAt.IsZero() && !c.ackAt.After(now) {
		c.acknowledge()
	}
	sooner(c.ackAt)
	c.expire(now)
	c.plan(now)
	if c.wanted > 0 {
		sooner(now.Add(idleAfter / 4))
	}
	c.armed = next
	return next
}

// attend does what is due for a message.
func (c *Courier) attend(now time.Time, m *message) {
	if now.Sub(m.first) > lifeMax {
		c.stats.GivenUp++
		c.finish(m)
		return
	}
	if m.copies > 0 && !m.copyAt.After(now) {
		m.copies--
		m.copyAt = now.Add(c.copyGap())
		c.spend(now, m, nil)
	}
	if m.retryAt.After(now) {
		return
	}
	m.wait = min(m.wait*3/2, max(retryMax, c.retryWait()))
	m.retryAt = now.Add(m.wait)
	if len(c.paths) == 0 || c.lost {
		return // it waits for the link
	}
	c.stats.RetriedCount++
	p := c.pick(nil)
	c.stats.Retries += uint64(c.transmit(now, m, p, false))
	c.copy(now, m, p)
}

// plan decides how many paths there should be.
func (c *Courier) plan(now time.Time) {
	if elapsed := now.Sub(c.rateSince); elapsed >= rateEvery {
		rate := float64(c.rateBytes) / elapsed.Seconds()
		c.rateBytes, c.rateSince = 0, now
		c.need = min(max(int(rate*c.rtt.Seconds()/pathWindow)+1, minPaths), maxPaths)
	}
	want := 0
	if c.meter.level > levelPlain && now.Sub(c.busy) < idleAfter {
		want = max(c.need, minPaths)
	}
	switch {
	case want > c.wanted:
		c.wanted, c.lowSince = want, time.Time{}
		c.tell()
	case want == c.wanted:
		c.lowSince = time.Time{}
	case c.lowSince.IsZero():
		c.lowSince = now
	case now.Sub(c.lowSince) >= idleAfter:
		c.wanted, c.lowSince = want, time.Time{}
		c.tell()
		if p := c.pick(nil); p != nil {
			c.account(p) // there may be nothing else to tell the peer by
		}
	}
}

func (c *Courier) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Wanted is how many paths the two ends want, none or from 2 to 8, and a channel that is closed when that changes.
func (c *Courier) Wanted() (paths int, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.wanted, c.theirs), c.changed
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
