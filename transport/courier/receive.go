package courier

import (
	"time"
)

// This file is what arrives, and what it says of what was sent.

// SenderOf is the life that a datagram says it is from; zero of what is none.
func SenderOf(b []byte) (l Life) {
	if len(b) >= 2+len(l) {
		copy(l[:], b[2:])
	}
	return l
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
	if present {
		c.dialect = h.dialect
	}
	if begun { // the peer has started anew: what its earlier life may have had is not for this one
		c.forget()
	}
	if !mine && present { // the peer does not know this life, perhaps because what said so was lost: nothing it sends is taken
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
	if back := c.in.account.largest - h.number; back > 64 && back < longAccount {
		if late := c.in.late; late > 0 && max(late, h.number)-min(late, h.number) > 64 {
			c.acknowledge()
		}
		c.in.late = max(c.in.late, h.number)
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
	if f := c.flight(a.largest); f != nil && f.open && len(f.held) > 0 && f.held[0].care > Once { // others wait for company
		c.measured(now, now.Sub(f.at))
	}
	for n := a.largest; n >= 1 && n+64 >= a.largest; n-- {
		f := c.flight(n)
		if f == nil || !f.open || !a.has(n) {
			continue
		}
		f.open = false
		c.arrived += f.size
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
	if kept := uint64(len(c.flights)); c.oldest+kept <= c.number {
		c.oldest = c.number - kept + 1
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
		if c.crowded {
			continue
		}
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
	if c.in.late > 0 {
		c.account(p)
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
