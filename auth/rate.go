package auth

import (
	"sync"
	"time"

	"holdfast/kv"
)

// paces is what a Guard knows of the devices that it has served: how fast they are, and when they came last. It has an
// entry for each device of the policy at most.
type paces struct {
	mu sync.Mutex
	of map[string]*pace // by id
	at *Policy          // as of which devices that are gone were dropped
}

// pace is a bucket of one second: a device that sends evenly may send at its rate, one that was quiet a second's worth at once.
type pace struct {
	left float64
	last time.Time
}

// allow counts a request of a device, and reports whether its rate allows that. Refused requests do not count.
func (s *paces) allow(p *Policy, id string, rate uint32, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[string]*pace{}
	}
	if s.at != p {
		s.at = p
		for id := range s.of {
			if p.devices[id] == nil {
				delete(s.of, id)
			}
		}
	}
	b := s.of[id]
	if b == nil {
		b = &pace{left: float64(rate)}
		s.of[id] = b
	}
	since := now.Sub(b.last)
	b.left = min(float64(rate), b.left+max(0, since.Seconds())*float64(rate))
	b.last = now
	if rate == 0 {
		return true
	}
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// rate refuses a device that sends faster than its token allows.
func (g *Guard) rate(p *Policy, principal string) error {
	d, id := p.Device(principal)
	if d == nil || g.paces.allow(p, id, d.Rate, g.opts.Now()) {
		return nil
	}
	return kv.Errorf(kv.RateLimited, "the device %q may send %d requests a second through one node", d.Name, d.Rate)
}

// limit is rate for a command, and says whose share of a queue it may take.
func (g *Guard) limit(p *Policy, c *kv.Command) error {
	if c.By.Principal != "" && c.By.Node == "" {
		c.Device = c.By.Principal
	}
	if d, _ := p.Device(c.By.Principal); d != nil {
		c.Share = int64(d.Share) << 10
	}
	return g.rate(p, c.By.Principal)
}

// LastSeen is when the device tokens came that this Guard has let in since it was made, by id.
func (g *Guard) LastSeen() map[string]time.Time {
	g.paces.mu.Lock()
	defer g.paces.mu.Unlock()
	seen := make(map[string]time.Time, len(g.paces.of))
	for id, b := range g.paces.of {
		seen[id] = b.last
	}
	return seen
}
