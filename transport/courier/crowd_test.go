package courier

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowing is a way on which what is sent takes longer from some moment on, whatever its connection measures.
type slowing struct {
	lane

	oneWay, measured atomic.Int64 // ns
}

func (l *slowing) SendDatagram(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	if l.drop == nil || !l.drop() {
		time.AfterFunc(time.Duration(l.oneWay.Load()), func() { l.to.receive(b) })
	}
	return nil
}

func (l *slowing) Quality() Quality { return Quality{RTT: time.Duration(l.measured.Load())} }

// slowingLink is a path each way between two couriers, with a round trip that can change.
func slowingLink(a, b *post, rtt time.Duration, drop func() bool) (there, back *slowing) {
	there, back = &slowing{lane: lane{to: b, drop: drop}}, &slowing{lane: lane{to: a}}
	for _, l := range []*slowing{there, back} {
		l.oneWay.Store(int64(rtt / 2))
		l.measured.Store(int64(rtt))
	}
	a.Attach(there)
	b.Attach(back)
	time.Sleep(2 * rtt)
	return there, back
}

func TestRoundTripIsMeasuredWhereAConnectionDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPost(t, 1, Options{}), newPost(t, 2, Options{})
		there, back := slowingLink(a, b, testRTT, nil)
		there.oneWay.Store(int64(300 * time.Millisecond))
		back.oneWay.Store(int64(300 * time.Millisecond))
		for n := range uint64(100) {
			if !a.Send(numbered(n, 100), Sure) {
				t.Fatal("not taken")
			}
			time.Sleep(100 * time.Millisecond)
		}
		before := a.Stats().RetriedCount
		for n := range uint64(100) {
			a.Send(numbered(100+n, 100), Sure)
			time.Sleep(100 * time.Millisecond)
		}
		s := a.Stats()
		if s.RTT < 590*time.Millisecond || s.RTT > 650*time.Millisecond {
			t.Errorf("round trip %s, want 600ms: the connection says %s", s.RTT, testRTT)
		}
		if again := s.RetriedCount - before; again > 5 {
			t.Errorf("%d of 100 messages were sent again, though none was lost", again)
		}
	})
}

func TestNothingIsCopiedOnACrowdedLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPost(t, 1, Options{}), newPost(t, 2, Options{})
		there, _ := slowingLink(a, b, testRTT, losing(5, .1))
		send := func(from uint64) uint64 {
			before := a.Stats().Copies
			for n := range uint64(300) {
				a.Send(numbered(from+n, 100), Sure)
				time.Sleep(20 * time.Millisecond)
			}
			return a.Stats().Copies - before
		}
		send(0)
		if copies := send(1000); copies == 0 {
			t.Fatal("no copies at 10 % of loss")
		}
		there.measured.Store(int64(time.Second)) // a queue
		time.Sleep(time.Second)
		if copies := send(2000); copies > 0 {
			t.Errorf("%d bytes of copies on a link with a queue of a second", copies)
		}
		there.measured.Store(int64(testRTT))
		time.Sleep(time.Second)
		if copies := send(3000); copies == 0 {
			t.Error("no copies after the queue had gone")
		}
	})
}
