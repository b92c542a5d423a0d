//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// between is how long the devices work undisturbed between two changes.
const between = 500 * time.Millisecond

// draws are the random numbers of a test, whose seed is shown and can be set.
func draws(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(envInt(t, "HOLDFAST_E2E_SEED", time.Now().UnixNano()))
	t.Logf("HOLDFAST_E2E_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// leads tells whether the box is the leader of its cluster.
func (b *box) leads() bool {
	s := b.status()
	return s.Member != nil && s.Member.Leader == s.Member.ReplicaID
}

// TestARollingRestartUnderLoadLosesNothing restarts each box in turn, one of them by kill -9 and always the leader in that
// way, while devices write to the others. HOLDFAST_E2E_ROUNDS is how often.
func TestARollingRestartUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, nil)
	s.devices(draws(t))
	for range envInt(t, "HOLDFAST_E2E_ROUNDS", 1) {
		for _, b := range s.boxes {
			time.Sleep(between)
			leads := b.leads()
			b.close()
			if leads {
				b.kill()
			} else if code := b.stop(); code != 0 {
				t.Errorf("%s: exit code %d\n%s", b.name, code, b.logTail())
			}
			time.Sleep(between)
			b.start()
		}
	}
	time.Sleep(between)
	s.finish()
}

// TestARollingReplacementUnderLoadLosesNothing puts a box with an empty data dir in the place of each, in the ways that there
// are: one leaves, one is broken and removed by hand, one has lost all but its identity. In further rounds
// (HOLDFAST_E2E_ROUNDS) the cluster itself replaces the third, which takes half a minute.
func TestARollingReplacementUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, nil)
	s.devices(draws(t))
	before := s.boxes[0].status().Member.ClusterID
	for round := range envInt(t, "HOLDFAST_E2E_ROUNDS", 1) {
		for i, b := range s.boxes {
			time.Sleep(between)
			s.replace(b, s.boxes[(i+1)%3], []replacement{leaves, removed, identityKept, replaced}[min(i+int(round), 3)])
		}
	}
	time.Sleep(between)
	s.finish()
	if now := s.boxes[0].status().Member.ClusterID; now != before {
		t.Errorf("the cluster is %s, it was %s", now, before)
	}
	for _, m := range s.boxes[0].members() {
		if m.ID == "1" || m.ID == "2" || m.ID == "3" {
			t.Errorf("one of the first three is still a member: %+v", m)
		}
	}
}

// replacement is a way by which a box comes to an empty data dir.
type replacement int

const (
	leaves       replacement = iota // with the consent of the others
	removed                         // by hand, after its disk broke
	identityKept                    // all else is lost, and the cluster sees who it is
	replaced                        // its disk broke, and the cluster gives up waiting for it
)

// replace has a box lose its data dir and come back, and waits until it votes. What a box has queued is lost with its disk,
// so it drains first.
func (s *site) replace(b, other *box, how replacement) {
	s.t.Helper()
	was := other.member(b.name).ID
	b.close()
	b.idle()
	if how == leaves {
		mustRun(s.t, b.data, "leave")
		if code := b.waitExit(startMax); code != 0 {
			s.t.Errorf("%s: exit code %d\n%s", b.name, code, b.logTail())
		}
	} else {
		b.kill()
		all, err := os.ReadDir(b.data)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range all {
			if how == identityKept && e.Name() == "identity" {
				continue
			}
			if err := os.RemoveAll(filepath.Join(b.data, e.Name())); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	switch how {
	case removed:
		mustRun(s.t, other.data, "members", "remove", b.name)
	case replaced:
		mustRun(s.t, other.data, "members", "set", "--replace-after", "30s")
		eventually(s.t, 2*startMax, func() string {
			if m := other.member(b.name); !m.Away {
				return fmt.Sprintf("the seat is not free: %+v", m)
			}
			return ""
		})
	}
	b.start()
	eventually(s.t, startMax, func() string {
		if now := other.member(b.name); now.ID == was || now.Role != "voter" {
			return fmt.Sprintf("%s was member %s, now %+v", b.name, was, now)
		}
		return ""
	})
	other.waitVoters(3, startMax)
	s.t.Logf("%s is another member now: %+v", b.name, other.members())
}

// member is the member of that name, as an agent lists it.
func (a *agent) member(name string) (is memberRow) {
	a.t.Helper()
	for _, m := range a.members() {
		if m.Name == name {
			return m
		}
	}
	return is
}
