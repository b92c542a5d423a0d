package courier

import (
	"context"
	"time"
)

// This file is the clock: retransmissions, copies that are due, accounts that nobody took along, and how many paths are wanted.

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
	if c.wanted > 0 || len(c.flights) > leastFlights {
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
	m.wait = c.laterWait(m.wait)
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
		sent, arrived := float64(c.rateBytes)/elapsed.Seconds(), float64(c.arrived)/elapsed.Seconds()
		c.rateBytes, c.arrived, c.rateSince = 0, 0, now
		if c.ageCarried(now); !c.crowded {
			c.carried[0] = max(c.carried[0], arrived)
		}
		c.need = min(int(min(sent*c.rtt.Seconds()/pathWindow, arrived/pathLeast))+1, maxPaths)
	}
	want, idle := 0, now.Sub(c.busy) >= idleAfter
	if c.meter.level > levelPlain && !idle {
		want = max(c.need, minPaths)
	}
	if idle && len(c.flights) > leastFlights {
		c.flights, c.oldest = nil, c.number+1
	}
	if c.crowded || c.rtt >= farRTT && c.need < minPaths {
		want = min(want, c.wanted)
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

// ageCarried forgets what was long ago.
func (c *Courier) ageCarried(now time.Time) {
	switch age := now.Sub(c.carriedAt); {
	case age >= 2*carriedSpan:
		c.carried = [2]float64{}
	case age >= carriedSpan:
		c.carried = [2]float64{0, c.carried[0]}
	default:
		return
	}
	c.carriedAt = now
}

func (c *Courier) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}
