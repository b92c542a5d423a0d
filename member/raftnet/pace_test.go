package raftnet

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// line is a link with a rate, in virtual time: what is sent waits for what was sent before.
type line struct {
	rate float64 // bytes a second
	rtt  time.Duration
	free time.Time
}

// send returns when what is sent now is acknowledged.
func (l *line) send(n int) time.Time {
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	return l.free.Add(l.rtt)
}

func TestPaceFindsTheRateOfTheLink(t *testing.T) {
	for _, c := range []struct {
		name  string
		line  line
		lasts time.Duration
		used  float64       // share of the rate, at least
		late  time.Duration // longest wait of what is sent, at most
	}{
		{"50 kbit/s, 600 ms", line{rate: 6250, rtt: 600 * time.Millisecond}, 5 * time.Minute, .65, 1500 * time.Millisecond},
		{"256 kbit/s, 80 ms", line{rate: 32e3, rtt: 80 * time.Millisecond}, time.Minute, .65, 500 * time.Millisecond},
		{"20 Mbit/s, 50 ms", line{rate: 2.5e6, rtt: 50 * time.Millisecond}, 20 * time.Second, .7, 500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p pace
				p.begin(time.Now(), c.line.rtt, paceFirstTrip, paceCalm)
				defer p.end()
				ctx, cancel := context.WithTimeout(t.Context(), c.lasts)
				defer cancel()
				type flight struct{ sent, back time.Time }
				total := 0
				flights := make(chan flight, 1<<16)
				go func() {
					defer close(flights)
					for {
						n := p.slice()
						if p.take(ctx, n) != nil {
							return
						}
						total += n
						flights <- flight{time.Now(), c.line.send(n)}
					}
				}()
				var late time.Duration
				for f := range flights {
					time.Sleep(time.Until(f.back))
					p.sample(time.Now(), f.back.Sub(f.sent))
					late = max(late, f.back.Sub(f.sent)-c.line.rtt)
				}
				share := float64(total) / (c.line.rate * c.lasts.Seconds())
				if share < c.used {
					t.Errorf("%.2f of the rate was used, want %.2f", share, c.used)
				}
				if late > c.late {
					t.Errorf("something waited for %s, want %s at most", late, c.late)
				}
				t.Logf("%.2f of the rate, %s the longest wait", share, late)
			})
		})
	}
}
