package agent

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/bridge"
	"holdfast/member"
	"holdfast/transport"
)

const (
	// lostAfter is how long a member is without a leader before it looks for the others also where its configuration says
	// that the cluster is: longer than an election takes, or a restart.
	lostAfter = 5 * time.Second
	// lostLook is how often it looks whether there is a leader.
	lostLook = time.Second
)

// addressBook is where a member dials the others: where the list of members says they are and, while there is no leader,
// at the addresses of --join as well. When all boxes have got other addresses at once nobody can change the list; but one
// that is reached is enough for two to agree, and connections serve both ways; whoever is not one of the two hears from one
// of them where the other is.
type addressBook struct {
	pool   *transport.Pool
	join   []string
	copied <-chan error // raftnet.ErrCopied, of the first member that says so

	mu      sync.Mutex
	roster  member.Roster
	wider   bool          // with the addresses of --join
	hearsay member.Roster // what another member has, while the search is wider
}

// told takes over a list of members.
func (b *addressBook) told(r member.Roster) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.roster = r
	b.set()
}

// widen has the addresses of --join dialed too, or no longer. It reports whether that is news.
func (b *addressBook) widen(wider bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wider == wider {
		return false
	}
	b.wider, b.hearsay = wider, member.Roster{}
	b.set()
	return true
}

// hears takes over where another member says that the others are.
func (b *addressBook) hears(r member.Roster) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wider {
		b.hearsay = r
		b.set()
	}
}

func (b *addressBook) set() {
	peers := make(map[string][]string, len(b.roster.Seats))
	for _, s := range b.roster.Seats {
		at := slices.Clone(s.Addresses)
		if b.wider {
			if heard := b.hearsay.Seat(s.Replica); heard != nil {
				at = append(at, heard.Addresses...)
			}
			at = append(at, b.join...)
			slices.Sort(at)
			at = slices.Compact(at)
		}
		peers[bridge.TransportNode(s.Node)] = at
	}
	b.pool.Set(peers)
}

// findOthers widens the search for the other members while there is no leader, until ctx ends.
func (a *Agent) findOthers(ctx context.Context, m *member.Member, b *addressBook) {
	var since time.Time // when there was seen to be no leader
	for {
		switch {
		case m.Status().Leader != 0:
			since = time.Time{}
			if b.widen(false) {
				a.opts.Log.Info("there is a leader again")
			}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= lostAfter:
			if b.widen(true) {
				a.sayLost(m)
			}
			b.hears(m.NewestRoster(ctx))
		}
		if wait(ctx, lostLook) != nil {
			return
		}
	}
}

// sayLost says what a member without a leader does about it, and what a person can do.
func (a *Agent) sayLost(m *member.Member) {
	var out []string
	for _, s := range m.Roster().Seats {
		if s.Replica != m.Status().ReplicaID {
			out = append(out, s.Name+" at "+strings.Join(s.Addresses, " or "))
		}
	}
	if len(out) == 0 {
		return
	}
	do := "see whether the other members run and are reached over UDP; if all have got other addresses, start this one with --join=HOST:PORT of another"
	if len(a.cfg.Join) > 0 {
		do = "see whether the other members run and are reached over UDP; the addresses of --join are tried for them as well, so name there where one of them is now"
	}
	a.opts.Log.Warn("there is no leader, so that this cluster takes no writes; "+do, "members", out, "join", a.cfg.Join, "for", lostAfter.String())
}
