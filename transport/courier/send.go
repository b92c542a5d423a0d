package courier

import (
	"slices"
	"time"
)

// This file is what leaves: messages, their copies, and the accounts that go along.

// Send takes a message, of at most MaxMessage bytes, which is the courier's from now on. It tells whether the message was
// taken: it is not without a path that works, nor when too much waits.
func (c *Courier) Send(body []byte, care Care) bool { return c.SendAll(care, body) }

// SendAll takes several messages, or none of them, as Send does. It does not take them while burstBytes wait.
func (c *Courier) SendAll(care Care, bodies ...[]byte) bool {
	bytes := 0
	for _, b := range bodies {
		if len(b) == 0 || len(b) > c.MaxMessage() {
			return false
		}
		bytes += len(b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.look(now)
	if !c.in.account.known && len(c.paths) > 0 && now.Sub(c.greeted) >= c.retryWait() {
		c.greet(c.pick(nil))
	}
	if len(c.paths) == 0 || c.lost || !c.in.account.known || care > Once && (len(c.waiting)+len(bodies) > maxWaiting || c.bytes+bytes > maxWaitingBytes) {
		c.stats.Refused++
		return false
	}
	if len(bodies) > 1 && c.bytes+bytes > burstBytes {
		return false
	}
	for _, b := range bodies {
		c.send(now, b, care)
	}
	return true
}

func (c *Courier) send(now time.Time, body []byte, care Care) {
	c.stats.Messages++
	m := &message{body: body, care: care, first: now}
	if care == Once {
		c.stats.First += uint64(c.transmit(now, m, nil, false))
		return
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
}

// copy sends the copies that the loss asks for, or sets when.
func (c *Courier) copy(now time.Time, m *message, first *path) {
	if c.crowded {
		m.copies = 0
		return
	}
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
	if c.opts.Sparing != nil && c.opts.Sparing() {
		return false
	}
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
	if c.crowded {
		return 2 * rtt
	}
	return max(time.Duration(retryRTTs*float64(rtt)), rtt+retrySlack)
}

// Hold is how long whoever wants messages in order waits for a missing one: until it would have come at the second attempt, and
// on a long link, on which to have more sent again takes longest, at the third.
func (c *Courier) Hold() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(time.Now())
	hold := c.retryWait()
	if c.rtt >= farRTT {
		hold += c.laterWait(hold)
	}
	return hold + ackDelay
}

// laterWait is how long a message waits after a further attempt, where it waited so long after the one before.
func (c *Courier) laterWait(before time.Duration) time.Duration {
	return min(before*3/2, max(retryMax, c.retryWait()))
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
	if repeats && c.meter.level >= levelRepeat && !c.crowded {
		b, held = c.repeat(now, b, held)
	}
	c.fly(now, held, len(b))
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
	h := header{wanted: c.wanted, dialect: c.opts.Dialect, life: c.opts.Life, number: c.number, account: c.in.account}
	if c.in.late > 0 { // the next one tells the rest
		h.account, c.in.late = c.in.upTo(c.in.late), 0
		return h
	}
	c.ackAt, c.ackCount = time.Time{}, 0
	return h
}

// fly remembers a datagram under way.
func (c *Courier) fly(now time.Time, held []*message, size int) {
	if c.flights == nil {
		c.flights = make([]flight, leastFlights)
	}
	f := c.slot(c.number)
	if f.open && now.Sub(f.at) < forgetAfter && len(c.flights) < maxFlights {
		c.remember(2 * len(c.flights))
		f = c.slot(c.number)
	}
	*f = flight{number: c.number, at: now, held: held, size: size, open: true}
}

// remember makes room for n datagrams, more than there are.
func (c *Courier) remember(n int) {
	former := c.flights
	c.flights = make([]flight, n)
	for _, f := range former {
		if f.number > 0 {
			*c.slot(f.number) = f
		}
	}
}

func (c *Courier) slot(number uint64) *flight { return &c.flights[number%uint64(len(c.flights))] }

func (c *Courier) flight(number uint64) *flight {
	if c.flights == nil {
		return nil
	}
	if f := c.slot(number); f.number == number {
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
	if c.owned >= ownSamples && now.Sub(c.ownAt) < ownFresh {
		c.rtt = max(c.rtt, slices.Min(c.own[:]))
	}
	if c.rtt == 0 {
		return
	}
	if now.Sub(c.leastAt) > leastSpan {
		c.least, c.leastAt = [2]time.Duration{c.rtt, c.least[0]}, now
	}
	c.least[0] = min(c.least[0], c.rtt)
	least := c.least[0]
	if c.least[1] > 0 {
		least = min(least, c.least[1])
	}
	c.crowded = c.rtt > max(time.Duration(crowdedRTTs*float64(least)), least+crowdedLeast)
}

// measured takes note of how long a datagram and its acknowledgement took.
func (c *Courier) measured(now time.Time, took time.Duration) {
	c.own[c.owned%ownSamples] = max(took-ackDelay, time.Millisecond)
	c.owned++
	c.ownAt = now
}
