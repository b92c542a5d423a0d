package transport

import (
	"sync"
	"time"
)

// The clock of loss detection.
const (
	lostAtLeast   = time.Second            // a link is not called lost before this
	lostRTTs      = 4                      // nor before this many smoothed round trips
	watchSteps    = 4                      // looks per lost time while something is under way
	lostPoll      = 100 * time.Millisecond // looks for the first packet back while lost
	lostProbeStep = 10                     // polls between probes while lost: one probe a second, until the idle timeout
)

// monitor tells a lost link from a quiet one. An attempt is whatever asks the peer for an acknowledgement; a link on
// which an attempt stays without any packet back for max(1 s, 4 srtt) is lost until a packet arrives.
//
//	quiet --attempt--> watching --nothing back in time--> lost
//	  ^                 |    ^                             |
//	  +----- settled ---+    +---------- a packet ---------+
//
// quic-go calls nobody when a packet arrives, but counts them, so the monitor looks at the counters: at an attempt, and
// on a timer that runs only while something is under way. An idle connection costs no timer.
type monitor struct {
	count func() linkCount // counters of the connection, cheap
	probe func()           // asks for a sign of life, must not block

	mu      sync.Mutex
	timer   *time.Timer // of look; nil until the first attempt
	running bool
	closed  bool

	received uint64    // packets received at the last look or attempt
	sent     uint64    // packets sent at the last look
	idle     linkCount // at the last sampleIdle
	heard    time.Time // when received last changed, as far as seen
	waiting  time.Time // since when something stands unanswered; zero: nothing does
	asked    bool      // a probe was sent meanwhile
	silent   bool      // the last look saw no packet since the one before
	settled  int       // looks in a row that saw nothing move
	polls    int       // while lost
	lost     bool
	changed  chan struct{} // closed when lost changes, then replaced
	losses   uint64
}

// linkCount is what the monitor looks at.
type linkCount struct {
	received, sent uint64 // packets
	srtt           time.Duration
}

func newMonitor(count func() linkCount, probe func()) *monitor {
	return &monitor{count: count, probe: probe, heard: time.Now(), changed: make(chan struct{})}
}

// lostAfter is how long an attempt waits for a packet.
func lostAfter(srtt time.Duration) time.Duration { return max(lostAtLeast, lostRTTs*srtt) }

// attempt notes that the peer is asked for something now. Only the first one since the last packet counts: the question
// is how long the link has been silent, not how much was said.
func (m *monitor) attempt() {
	c := m.count()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || (!m.waiting.IsZero() && c.received == m.received) {
		return
	}
	now := time.Now()
	if c.received != m.received {
		m.hear(c.received, now)
	}
	if m.lost {
		return // the polls go on
	}
	m.waiting = now
	m.settled = 0
	if !m.running {
		m.sent = c.sent
		m.arm(lostAfter(c.srtt) / watchSteps)
	}
}

func (m *monitor) arm(d time.Duration) {
	m.running = true
	if m.timer == nil {
		m.timer = time.AfterFunc(d, m.look)
		return
	}
	m.timer.Reset(d)
}

// hear takes note of packets received. The caller holds mu.
func (m *monitor) hear(received uint64, now time.Time) {
	m.received, m.heard, m.waiting, m.silent, m.asked = received, now, time.Time{}, false, false
	if m.lost {
		m.flip()
	}
}

func (m *monitor) flip() {
	m.lost = !m.lost
	close(m.changed)
	m.changed = make(chan struct{})
	if m.lost {
		m.losses++
		m.polls = 0
	}
}

// look runs on the timer.
func (m *monitor) look() {
	c := m.count()
	probe := false
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	now := time.Now()
	limit := lostAfter(c.srtt)
	step := limit / watchSteps
	moved := c.sent != m.sent || c.received != m.received
	switch {
	case c.received != m.received:
		m.hear(c.received, now)
	case m.waiting.IsZero() && c.sent != m.sent && m.silent:
		// An earlier attempt was answered in part, and quic-go repeats the rest. A send so long after the last packet
		// is no mere acknowledgement, which leaves within 25 ms.
		m.waiting = now.Add(-step)
	default:
		m.silent = true
	}
	m.sent = c.sent
	if !m.waiting.IsZero() && !m.lost {
		silence := now.Sub(m.waiting)
		switch {
		case silence >= limit:
			m.flip()
		case silence >= limit/2 && !m.asked:
			m.asked, probe = true, true // one lost packet is no lost link
		}
		step = min(step, max(limit-silence, 0))
	}
	m.settled++
	if moved || !m.waiting.IsZero() {
		m.settled = 0
	}
	switch {
	case m.lost:
		probe = m.polls%lostProbeStep == 0
		m.polls++
		m.arm(lostPoll)
	case m.settled > watchSteps:
		m.running = false
	default:
		m.arm(step)
	}
	m.mu.Unlock()
	if probe {
		m.probe()
	}
}

// sample takes a look outside the timer, for the time of the last packet.
func (m *monitor) sample() {
	c := m.count()
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.received != m.received && !m.closed {
		m.hear(c.received, time.Now())
	}
}

// sampleIdle is sample for links at rest. There nothing but a keep-alive is sent, which is no attempt: if one may have
// gone unanswered, the link is probed. (What was sent may also be a mere acknowledgement; then the probe is for nothing.)
// So a peer that died is noticed within a keep-alive and a sampling period, not only by the idle timeout. And a peer
// that has restarted tells so: it answers a probe with a stateless reset, which a keep-alive is too short for.
func (m *monitor) sampleIdle() (suspect bool) {
	c := m.count()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	if c.received != m.received {
		m.hear(c.received, time.Now())
	}
	suspect = !m.running && c.sent != m.idle.sent && c.received == m.idle.received
	m.idle = c
	return suspect
}

// close stops the timer for good. A link that has ended is neither lost nor found.
func (m *monitor) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	if m.timer != nil {
		m.timer.Stop()
	}
}

// state returns whether the link is lost and a channel that is closed when that changes.
func (m *monitor) state() (lost bool, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost, m.changed
}

// lastHeard is when a packet last arrived, as far as seen: exact to a quarter of the lost time while something is under
// way, to the endpoint's sampling while idle.
func (m *monitor) lastHeard() (at time.Time, losses uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard, m.losses
}
