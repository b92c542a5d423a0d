package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
	"holdfast/member"
	"holdfast/test/linear"
)

// device reads and writes a few keys through one member, one call at a time, and records what it is told.
type device struct {
	id   int
	at   func() *member.Member
	h    *linear.History
	rand *rand.Rand

	done, unknown, refused int
}

const linearKeys = 3

func (d *device) step(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	key := fmt.Sprintf("k%d", d.rand.IntN(linearKeys))
	if d.rand.IntN(2) == 0 {
		d.read(ctx, t, key)
		return
	}
	value := fmt.Sprintf("%d/%d", d.id, d.done+d.unknown+d.refused)
	call := d.h.Begin(d.id, linear.Put(key, value))
	res, err := d.at().Do(ctx, put(key, value))
	switch code := kv.CodeOf(err); {
	case err == nil:
		call.Done(linear.Wrote(res.Revision))
		d.done++
	case code == kv.OutcomeUnknown:
		call.Unknown()
		d.unknown++
	case code == kv.NoLeader || code == kv.Busy || code == kv.Stopping:
		call.Refused()
		d.refused++
	default:
		t.Errorf("device %d: put: %v", d.id, err)
		call.Unknown()
	}
}

func (d *device) read(ctx context.Context, t *testing.T, key string) {
	call := d.h.Begin(d.id, linear.Get(key))
	p, err := d.at().Read(ctx, get(key))
	switch {
	case err == nil && len(p.Ops[0].KVs) == 0:
		call.Done(linear.Absent())
		d.done++
	case err == nil:
		call.Done(linear.Found(string(p.Ops[0].KVs[0].Value), p.Ops[0].KVs[0].ModRevision))
		d.done++
	case kv.CodeOf(err) == kv.NoLeader || kv.CodeOf(err) == kv.Stopping:
		call.Refused()
		d.refused++
	default:
		t.Errorf("device %d: get: %v", d.id, err)
		call.Refused()
	}
}

func TestHistoryIsLinearizable(t *testing.T) {
	for _, tc := range []struct {
		name string
		loss float64
		cuts bool
	}{
		{"5 percent of packets lost", 0.05, false},
		{"2 percent lost and leaders cut off", 0.02, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			seed := rand.Uint64()
			synctest.Test(t, func(t *testing.T) {
				t.Logf("seed %d", seed)
				c := New(t, Options{Seed: seed, Delay: 25 * time.Millisecond, Loss: tc.loss})
				c.Start()
				h := linear.NewHistory()
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
				defer cancel()
				var wg sync.WaitGroup
				var devices []*device
				for i := range 6 {
					n := c.Nodes()[i%3]
					d := &device{id: i, at: func() *member.Member { return n.Member }, h: h, rand: rand.New(rand.NewPCG(seed, uint64(i)))} //nolint:gosec // a test
					devices = append(devices, d)
					wg.Go(func() {
						for ctx.Err() == nil {
							d.step(t)
							time.Sleep(time.Duration(d.rand.IntN(400)) * time.Millisecond)
						}
					})
				}
				if tc.cuts {
					for range 4 {
						time.Sleep(20 * time.Second)
						n := c.Leader()
						c.Isolate(n)
						time.Sleep(20 * time.Second)
						c.Heal(n)
					}
				}
				wg.Wait()
				var done, unknown, refused int
				for _, d := range devices {
					done, unknown, refused = done+d.done, unknown+d.unknown, refused+d.refused
				}
				t.Logf("%d calls answered, %d of unknown outcome, %d refused", done, unknown, refused)
				if done < 1000 || !tc.cuts && unknown+refused > 0 {
					t.Errorf("%d answered, %d unknown, %d refused: loss alone refuses nothing", done, unknown, refused)
				}
				c.AwaitSame(time.Minute)
				if err := h.Check(time.Minute); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// latencySamples is enough for a p99; each costs real disk writes on three members.
const latencySamples = 400

// TestCommitTakesARoundTrip holds the latency of commits over a link of 50 ms round trip against bounds that a
// regression would break, and logs the figures.
func TestCommitTakesARoundTrip(t *testing.T) {
	const rtt = 50 * time.Millisecond
	for _, tc := range []struct {
		loss     float64
		p50, p99 time.Duration // at most
	}{
		{0, rtt + 2*time.Millisecond, rtt + 2*time.Millisecond},
		{0.05, rtt + 5*time.Millisecond, 5 * rtt},
	} {
		t.Run(fmt.Sprintf("%g", tc.loss), func(t *testing.T) {
			bubble(t, Options{Seed: 7, Delay: rtt / 2, Loss: tc.loss}, func(t *testing.T, c *Cluster) {
				leader := c.Leader()
				term := leader.Status().Term
				through := map[string]*Node{"leader": leader, "follower": c.Others(leader)[0]}
				for who, n := range through {
					var took []time.Duration
					for i := range latencySamples {
						began := time.Now()
						mustPut(t, n, "k", fmt.Sprint(i))
						took = append(took, time.Since(began))
						time.Sleep(50*time.Millisecond - time.Since(began)%(50*time.Millisecond))
					}
					slices.Sort(took)
					p50, p90, p99 := took[len(took)/2], took[len(took)*9/10], took[len(took)*99/100]
					t.Logf("through the %s: p50 %v, p90 %v, p99 %v, worst %v", who, p50, p90, p99, took[len(took)-1])
					if who == "leader" && (p50 > tc.p50 || p99 > tc.p99) {
						t.Errorf("p50 %v, p99 %v: want at most %v and %v", p50, p99, tc.p50, tc.p99)
					}
				}
				if now := leader.Status().Term; now != term {
					t.Errorf("term %d became %d: elections for no reason", term, now)
				}
			})
		})
	}
}
