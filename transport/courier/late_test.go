package courier

import (
	"testing"
	"testing/synctest"
	"time"
)

// Where one of two paths is slower, many others come before what it carries: that has come all the same.
func TestWhatComesLateIsNeitherLostNorSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPost(t, 1, Options{}), newPost(t, 2, Options{})
		join(a, b, 1, nil, nil)
		slow := &slowing{lane: lane{to: b}}
		slow.measured.Store(int64(testRTT))
		slow.oneWay.Store(int64(testRTT/2 + 8*time.Millisecond))
		a.Attach(slow)
		time.Sleep(2 * testRTT)
		const each = 3000
		for n := range uint64(each) {
			if !a.Send(numbered(n, 40), Sure) {
				t.Fatalf("%d is not taken", n)
			}
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(time.Second)
		s := a.Stats() // the accounts of the last ones wait for company
		if b.count() != each || s.Loss > 0.001 || s.RetriedCount > ackEvery || s.Waiting > 0 {
			t.Errorf("%d of %d came, loss %.3f, %d sent again, %d wait", b.count(), each, s.Loss, s.RetriedCount, s.Waiting)
		}
	})
}

func TestCarriesIsWhatArrivedLately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPost(t, 1, Options{}), newPost(t, 2, Options{})
		join(a, b, 1, nil, nil)
		if c := a.Carries(); c > 100 {
			t.Errorf("%.0f bytes a second before anything was sent", c)
		}
		for n := range uint64(300) {
			a.Send(numbered(n, 100), Sure)
			time.Sleep(10 * time.Millisecond)
		}
		if c := a.Carries(); c < 100*100 || c > 100*150 {
			t.Errorf("%.0f bytes a second of 100 messages of 100 bytes", c)
		}
		time.Sleep(2 * carriedSpan)
		if c := a.Carries(); c > 100 {
			t.Errorf("%.0f bytes a second long after", c)
		}
	})
}
