package cluster

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/member"
	"holdfast/test/linear"
)

// fleet is devices that use whichever members are up.
type fleet struct {
	mu      sync.Mutex
	up      []*member.Member
	last    time.Time // of the newest acknowledgement
	longest time.Duration
}

func (f *fleet) add(n *Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.up = append(f.up, n.Member)
}

func (f *fleet) take(n *Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.up = slices.DeleteFunc(f.up, func(m *member.Member) bool { return m == n.Member })
}

func (f *fleet) pick(n int) *member.Member {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.up[n%len(f.up)]
}

// probe writes every 50 ms through one member after the other, whatever has become of the writes before.
func (f *fleet) probe(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := 0; ctx.Err() == nil; i++ {
		wg.Go(func() {
			if _, err := f.pick(i).Do(ctx, put("probe", "x")); err == nil {
				f.acked()
			}
		})
		time.Sleep(50 * time.Millisecond)
	}
}

func (f *fleet) acked() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if !f.last.IsZero() {
		f.longest = max(f.longest, now.Sub(f.last))
	}
	f.last = now
}

// under runs change while eight devices read and write, and checks what they saw.
func under(t *testing.T, seed uint64, change func(t *testing.T, c *Cluster, f *fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Logf("seed %d", seed)
		c := New(t, Options{Seed: seed, Loss: 0.01})
		c.Start()
		f := &fleet{}
		for _, n := range c.Nodes() {
			f.add(n)
		}
		h := linear.NewHistory()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var wg sync.WaitGroup
		var devices []*device
		for i := range 8 {
			r := rand.New(rand.NewPCG(seed, uint64(i))) //nolint:gosec // a test
			d := &device{id: i, at: func() *member.Member { return f.pick(r.IntN(1 << 20)) }, h: h, rand: r}
			devices = append(devices, d)
			wg.Go(func() {
				for ctx.Err() == nil {
					d.step(t)
					time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
				}
			})
		}
		wg.Go(func() { f.probe(ctx) })
		change(t, c, f)
		cancel()
		wg.Wait()
		var done, unknown, refused int
		for _, d := range devices {
			done, unknown, refused = done+d.done, unknown+d.unknown, refused+d.refused
		}
		t.Logf("%d calls answered, %d of unknown outcome, %d refused; longest time without a write acknowledged: %v", done, unknown, refused, f.longest)
		if done < 100 || f.longest > 6*time.Second {
			t.Errorf("%d answered, %v without a write acknowledged", done, f.longest)
		}
		c.AwaitSame(time.Minute)
		if err := h.Check(time.Minute); err != nil {
			t.Error(err)
		}
	})
}

func TestRollingRestartUnderLoadIsLinearizable(t *testing.T) {
	under(t, rand.Uint64(), func(t *testing.T, c *Cluster, f *fleet) {
		t.Helper()
		for _, n := range c.Nodes() {
			time.Sleep(3 * time.Second)
			f.take(n)
			if n == c.Leader() {
				n.Kill() // the worse way
			} else {
				n.Stop()
			}
			time.Sleep(3 * time.Second)
			n.Start()
			n.AwaitReady(time.Minute)
			f.add(n)
		}
	})
}

// TestRollingReplacementUnderLoadIsLinearizable puts three new boxes in the place of the three that there are.
func TestRollingReplacementUnderLoadIsLinearizable(t *testing.T) {
	under(t, rand.Uint64(), func(t *testing.T, c *Cluster, f *fleet) {
		t.Helper()
		old := slices.Clone(c.Nodes())
		for _, n := range old {
			time.Sleep(time.Second)
			other := c.Others(n)[len(c.Nodes())-2] // the newest box
			f.take(n)
			n.failing = true
			if err := other.RemoveReplica(context.Background(), n.Replica); err != nil {
				t.Fatalf("remove %s: %v", n.Name, err)
			}
			n.Stop()
			anew, err := c.Join(other)
			if err != nil {
				t.Fatal(err)
			}
			anew.AwaitReady(time.Minute)
			f.add(anew)
			awaitVoters(t, anew, 3, time.Minute)
		}
		for _, s := range c.Leader().Roster().Seats {
			if s.Replica <= 3 {
				t.Errorf("one of the old boxes is still there: %+v", s)
			}
		}
	})
}
