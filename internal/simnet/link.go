package simnet

import (
	"cmp"
	"math/rand/v2"
	"time"
)

// defaultBuffer is how much a link with a rate holds back before it drops, as an honest router does.
const defaultBuffer = 200 * time.Millisecond

// direction is the way from one node to another. Net.mu guards it.
type direction struct {
	rand  *rand.Rand
	delay time.Duration
	loss  float64
	burst int // packets lost in a row; 0 and 1: independent losses
	rate  int64
	held  time.Duration // 0: defaultBuffer
	cut   bool

	losing int       // packets of a burst still to lose
	free   time.Time // when the line has sent what it took
	stats  Stats
}

// Stats counts what went one way.
type Stats struct {
	Packets, Bytes int // offered by the sender, UDP payload
	Lost           int // of those packets: cut, lost, or beyond the rate
}

// pass decides whether a packet gets through.
func (d *direction) pass(size int) bool {
	d.stats.Packets++
	d.stats.Bytes += size
	if d.cut || d.unlucky() || !d.fits(size) {
		d.stats.Lost++
		return false
	}
	return true
}

func (d *direction) unlucky() bool {
	if d.losing > 0 {
		d.losing--
		return true
	}
	length := max(d.burst, 1)
	// Bursts begin so often that the share of packets lost is loss.
	if d.loss == 0 || d.rand.Float64() >= d.loss/(float64(length)*(1-d.loss)+d.loss) {
		return false
	}
	d.losing = length - 1
	return true
}

// fits puts a packet on the line, if its buffer has room. Headers of IP and UDP take their time too.
func (d *direction) fits(size int) bool {
	if d.rate == 0 {
		return true
	}
	now := time.Now()
	if d.free.Before(now) {
		d.free = now
	}
	if d.free.Sub(now) > cmp.Or(d.held, defaultBuffer) {
		return false
	}
	d.free = d.free.Add(time.Duration(int64(size+28) * 8 * int64(time.Second) / d.rate))
	return true
}

// latency is that of the packet that has just passed.
func (d *direction) latency(now time.Time) time.Duration {
	if d.free.After(now) {
		return d.free.Sub(now) + d.delay
	}
	return d.delay
}

// Link sets one direction or both. Its methods can be chained and take effect on the next packet.
type Link struct {
	net  *Net
	dirs []*direction
}

// Delay is how long a packet takes, one way.
func (l Link) Delay(d time.Duration) Link { return l.set(func(x *direction) { x.delay = d }) }

// Loss is the share of packets that do not arrive, 0 to 1, each way.
func (l Link) Loss(p float64) Link { return l.set(func(x *direction) { x.loss = p }) }

// Burst makes losses come in runs of n packets, at the same share.
func (l Link) Burst(n int) Link { return l.set(func(x *direction) { x.burst = n }) }

// Rate bounds the bits per second, each way; 0 is no bound. What does not fit the buffer is lost.
func (l Link) Rate(bitsPerSecond int64) Link {
	return l.set(func(x *direction) { x.rate = bitsPerSecond })
}

// Buffer is how long a packet waits at most for those before it on a link with a rate, 200 ms by default. Modems hold
// seconds.
func (l Link) Buffer(d time.Duration) Link { return l.set(func(x *direction) { x.held = d }) }

// Stats sums what went over the directions of the link.
func (l Link) Stats() Stats {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	var s Stats
	for _, d := range l.dirs {
		s.Packets += d.stats.Packets
		s.Bytes += d.stats.Bytes
		s.Lost += d.stats.Lost
	}
	return s
}

func (l Link) set(f func(*direction)) Link {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	for _, d := range l.dirs {
		f(d)
	}
	return l
}
