package member

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// Roster is the cluster's own list of its members, in one replicated record: who they are, where they are reached, and
// what is wanted of each. Raft itself knows replica ids and node ids only; the leader brings it in step with the roster
// (see keepMembers). Replica ids are given out here and never used again.
type Roster struct {
	Cluster uint64 `json:"cluster"` // another's list, as a restored backup has, is none
	Voters  int    `json:"voters"`  // how many voters are wanted
	// ReplaceAfter is for how many seconds a voter has to be away before its seat is free for another; 0: it is kept.
	ReplaceAfter int64 `json:"replace_after"`

	Next    uint64 `json:"next"`  // the next replica id
	Seats   []Seat `json:"seats"` // in order of replica id
	Removed []Gone `json:"removed,omitempty"`

	version int64 // of the record, 0: there is none
}

// Seat is a member's place in the roster.
type Seat struct {
	Replica    uint64    `json:"replica"`
	Node       string    `json:"node"` // in the form of Config.NodeID
	Name       string    `json:"name,omitempty"`
	Addresses  []string  `json:"addresses,omitempty"`
	ClientURLs []string  `json:"client_urls,omitempty"`
	State      SeatState `json:"state"`
	Was        SeatState `json:"was,omitempty"`       // before it was to leave
	CaughtUp   bool      `json:"caught_up,omitempty"` // the member has been ready once
	Away       bool      `json:"away,omitempty"`      // out of reach for so long that its seat is free for another
}

// Gone is a member that was removed.
type Gone struct {
	Replica uint64 `json:"replica"`
	Node    string `json:"node"`
	Name    string `json:"name,omitempty"`
}

// SeatState is what is wanted of a member.
type SeatState string

// The states of a seat.
const (
	SeatJoining SeatState = "joining" // to be a learner, and a voter once it has caught up
	SeatVoter   SeatState = "voter"   // a voter
	SeatLeaving SeatState = "leaving" // to be removed
)

// Bounds of a roster.
const (
	DefaultVoters = 3
	MaxVoters     = 7
	maxSeats      = 32
	maxRemoved    = 64 // remembered, the newest ones
)

const rosterRecord = "members"

// Taken is how many members there are that vote or are going to, without those that may be replaced.
func (r *Roster) Taken() (n int) {
	for _, s := range r.Seats {
		if s.State != SeatLeaving && !s.Away {
			n++
		}
	}
	return n
}

// Seat returns the seat of a replica, nil if it has none.
func (r *Roster) Seat(replica uint64) *Seat {
	for i := range r.Seats {
		if r.Seats[i].Replica == replica {
			return &r.Seats[i]
		}
	}
	return nil
}

// drop takes a replica off the list and remembers that it was there.
func (r *Roster) drop(replica uint64) {
	i := slices.IndexFunc(r.Seats, func(s Seat) bool { return s.Replica == replica })
	if i < 0 {
		return
	}
	s := r.Seats[i]
	r.Seats = slices.Delete(r.Seats, i, i+1)
	r.Removed = append(r.Removed, Gone{Replica: s.Replica, Node: s.Node, Name: s.Name})
	if n := len(r.Removed) - maxRemoved; n > 0 {
		r.Removed = slices.Delete(r.Removed, 0, n)
	}
}

func (r *Roster) add(s Seat) {
	r.Seats = append(r.Seats, s)
	slices.SortFunc(r.Seats, func(a, b Seat) int { return int(a.Replica) - int(b.Replica) })
	r.Next = max(r.Next, s.Replica+1)
}

func (r Roster) clone() Roster {
	r.Seats, r.Removed = slices.Clone(r.Seats), slices.Clone(r.Removed)
	return r
}

// rosterCache is the roster as it is known here.
type rosterCache struct {
	mu      sync.Mutex
	now     Roster
	changed chan struct{} // closed at the next change, made when somebody waits
	dirty   chan struct{} // of one slot: the record has changed
}

func (c *rosterCache) init() {
	c.changed, c.dirty = make(chan struct{}), make(chan struct{}, 1)
}

func (c *rosterCache) get() (Roster, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now, c.changed
}

func (c *rosterCache) set(r Roster) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = r
	close(c.changed)
	c.changed = make(chan struct{})
}

// rosterTold is told by the store which records change.
func (m *Member) rosterTold(name string) {
	if name != rosterRecord && name != "" {
		return
	}
	select {
	case m.roster.dirty <- struct{}{}:
	default:
	}
}

// Roster is the list of members as applied here, from memory.
func (m *Member) Roster() Roster {
	r, _ := m.roster.get()
	return r.clone()
}

// loadRoster reads the record from the store, as applied here. Without one it is zero.
func (m *Member) loadRoster() (Roster, error) {
	p, err := m.store.Read(rosterQuery())
	if err != nil {
		return Roster{}, asKV(err)
	}
	return m.parseRoster(p)
}

// parseRoster reads the answer to a rosterQuery. The list of another cluster is taken for none.
func (m *Member) parseRoster(p kv.Page) (Roster, error) {
	r, err := parseRoster(p)
	if r.Cluster != m.id.Cluster {
		r = Roster{version: r.version}
	}
	return r, err
}

func parseRoster(p kv.Page) (r Roster, err error) {
	for _, v := range p.Ops[0].KVs {
		if string(v.Key) != rosterRecord {
			continue
		}
		if err := json.Unmarshal(v.Value, &r); err != nil {
			return r, kv.Errorf(kv.Corrupt, "the record of the cluster's members cannot be read: %v", err)
		}
		r.version = v.Version
	}
	return r, nil
}

// none reports whether there is no list.
func (r *Roster) none() bool { return len(r.Seats) == 0 }

// followRoster keeps what is known of the roster in step with the record, and tells whoever wants to know.
func (m *Member) followRoster(ctx context.Context) error {
	for {
		r, err := m.loadRoster()
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it was stopped
		case err != nil:
			return fmt.Errorf("read the list of members: %w", err)
		case r.none(): // a learner to which nothing has come yet, or a founder
			r = m.firstRoster
		}
		m.roster.set(r)
		m.cfg.OnRoster(r.clone())
		select {
		case <-m.roster.dirty:
		case <-ctx.Done():
			return nil
		}
	}
}

// rosterTries bounds how often a change of the roster is tried while others change it.
const rosterTries = 32

// changeRoster applies a change to the newest roster. Change edits it, or returns false to leave it as it is; it may be
// called several times.
func (m *Member) changeRoster(ctx context.Context, change func(*Roster) (bool, error)) (Roster, error) {
	return m.changeRosterAs(ctx, 0, change)
}

// changeRosterAs is changeRoster for the leader of a term, which ends with NoLeader when it has been deposed: 0 is for
// anybody.
func (m *Member) changeRosterAs(ctx context.Context, term uint64, change func(*Roster) (bool, error)) (Roster, error) {
	for try := 0; ; try++ {
		p, err := m.Read(ctx, kv.Query{Ops: rosterQuery().Ops})
		if err != nil {
			return Roster{}, err
		}
		r, err := m.parseRoster(p)
		if err != nil {
			return r, err
		}
		was := r.version
		changed, err := change(&r)
		if err != nil || !changed {
			return r, err
		}
		if len(r.Seats) > maxSeats {
			return r, kv.Errorf(kv.RateLimited, "the list of members has %d entries, its limit; remove some (agent members remove)", maxSeats)
		}
		r.Cluster = m.id.Cluster
		b, err := json.Marshal(r)
		if err != nil {
			return r, err
		}
		set := kv.Command{Ops: []kv.Op{kv.SetRecord{Name: []byte(rosterRecord), Value: b, Have: was, Term: term}}}
		if term == 0 {
			_, err = m.Do(ctx, set)
		} else {
			_, err = m.propose(ctx, wire.AppendCommand(nil, set))
		}
		if kv.CodeOf(err) != kv.PreconditionFailed || try == rosterTries {
			r.version = was + 1
			return r, err
		}
	}
}
