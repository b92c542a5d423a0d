//go:build linux

package main

import (
	"math"
	"testing"
	"time"
)

func linkOf(t *testing.T, kv ...string) *Link {
	t.Helper()
	var p Params
	for i := 0; i+1 < len(kv); i += 2 {
		if err := p.Set(kv[i], kv[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	return newLink(7, p)
}

func TestLossHasItsRateAndItsRuns(t *testing.T) {
	for _, c := range []struct {
		key, val  string
		want, run float64
	}{
		{"loss", "5%", .05, 1 / .95},
		{"burst", "5%/4", .05, 4},
		{"ge", "1%,25%,50%,1%", (.5*.01 + .01*.25) / .26, 0},
	} {
		l := linkOf(t, c.key, c.val)
		lost, runs, last := 0, 0, false
		const n = 400000
		for i := range n {
			_, k := l.admit(int64(i)*1000, 100)
			if k == 0 {
				lost++
				if !last {
					runs++
				}
			}
			last = k == 0
		}
		if got := float64(lost) / n; math.Abs(got-c.want) > .05*c.want {
			t.Errorf("%s %s: loss %.4f, want %.4f", c.key, c.val, got, c.want)
		}
		if got := float64(lost) / float64(runs); c.run > 0 && math.Abs(got-c.run) > .05*c.run {
			t.Errorf("%s %s: mean run %.2f, want %.2f", c.key, c.val, got, c.run)
		}
	}
}

func TestOutagesTakeTheirShareOfTime(t *testing.T) {
	l := linkOf(t, "outage", "900ms/100ms")
	lost := 0
	const n = 1000000
	for i := range n {
		if _, k := l.admit(int64(i+1)*int64(time.Millisecond), 100); k == 0 {
			lost++
		}
	}
	if got := float64(lost) / n; got < .09 || got > .11 {
		t.Errorf("out of service %.3f of the time, want 0.1", got)
	}
}

func TestALineDropsWhatItsQueueCannotHold(t *testing.T) {
	l := linkOf(t, "rate", "8mbit", "queue", "10000", "delay", "20ms") // 1 byte per microsecond
	var got []time.Duration
	for range 20 {
		if at, n := l.admit(1e9, 1000); n == 1 {
			got = append(got, time.Duration(at[0]-1e9))
		}
	}
	if len(got) != 10 || got[0] != 21*time.Millisecond || got[9] != 30*time.Millisecond {
		t.Errorf("deliveries %v", got)
	}
	if l.S.QueueDrop != 10 {
		t.Errorf("%d dropped, want 10", l.S.QueueDrop)
	}
}

func TestOnlyReorderingOvertakes(t *testing.T) {
	l := linkOf(t, "delay", "5ms", "jitter", "5ms")
	last := int64(0)
	for i := range 10000 {
		now := int64(i) * 100000
		at, _ := l.admit(now, 100)
		if at[0] < last || at[0] < now+5e6 {
			t.Fatalf("packet %d at %d after %d", i, at[0], last)
		}
		last = at[0]
	}
	l = linkOf(t, "delay", "5ms", "reorder", "10%", "dup", "10%")
	over, dup := 0, 0
	last = 0
	for i := range 10000 {
		at, n := l.admit(int64(i)*100000, 100)
		if at[0] < last {
			over++
		}
		last = at[0]
		dup += n - 1
	}
	if over < 700 || dup < 850 || dup > 1150 {
		t.Errorf("%d overtaken, %d copies", over, dup)
	}
}

func TestACutAndASmallMTUDropSilently(t *testing.T) {
	l := linkOf(t, "mtu", "1280")
	if _, n := l.admit(1, 1281); n != 0 || l.S.MTUDrop != 1 {
		t.Errorf("a packet larger than the MTU: %d copies, %+v", n, l.S)
	}
	l.P.Cut = true
	if _, n := l.admit(1, 100); n != 0 || l.S.CutDrop != 1 {
		t.Errorf("a packet on a cut link: %d copies, %+v", n, l.S)
	}
}

func TestBadValuesAreRefused(t *testing.T) {
	var p Params
	for _, kv := range [][2]string{{"loss", "x"}, {"loss", "101%"}, {"rate", "10mb/s"}, {"delay", "-1s"}, {"burst", "5%"}, {"ge", "1%"}, {"outage", "3s"}, {"nope", "1"}} {
		if p.Set(kv[0], kv[1]) == nil {
			t.Errorf("%v accepted", kv)
		}
	}
}
