package raftnet

import (
	"slices"
	"sync"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// A leader that feels its way to a follower's log sends entries again with each answer to a heartbeat, ten times a second,
// until the follower has them. On a link on which they take longer than that, all it carries are copies, and the follower
// is never done. So entries that are on their way over a stream, which loses none while its connection lives, are not
// queued a second time; of a message that begins with such entries the rest is sent, which is a message that follows them.
// While they wait, what has entries goes over the stream however short it is: what overtook them would have them dropped.
const (
	// underwayLeast is from which length on a batch is looked at, if none is on its way.
	underwayLeast = 1 << 10
	// underwaySlack is how long entries may take to be answered after the connection has taken them, beside two round trips.
	underwaySlack = time.Second
	maxUnderway   = 1024 // more are not remembered
)

// underway knows which entries a connection is carrying.
type underway struct {
	mu     sync.Mutex
	ranges []entryRange
	upTo   uint64 // number of the last batch that the connection has taken
}

// entryRange is what one message has.
type entryRange struct {
	term, before, last uint64
	number             uint64    // of its batch
	taken              time.Time // by the connection; zero: it is in the queue
}

func rangeOf(m pb.Message) entryRange {
	return entryRange{term: m.Term, before: m.LogIndex, last: m.LogIndex + uint64(len(m.Entries))}
}

// news returns the messages without the entries that are on their way, and whether some still wait for the connection to
// take them.
func (u *underway) news(messages []pb.Message, rtt time.Duration) (rest []pb.Message, busy bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.prune(time.Now().Add(-2*rtt - underwaySlack))
	ranges := u.ranges[:len(u.ranges):len(u.ranges)]
	rest = messages[:0:0]
	for _, m := range messages {
		if m.Type != pb.Replicate || len(m.Entries) == 0 {
			rest = append(rest, m)
			continue
		}
		if m, some := without(ranges, m); some {
			rest = append(rest, m)
			ranges = append(ranges, rangeOf(m))
		}
	}
	return rest, slices.ContainsFunc(u.ranges, func(r entryRange) bool { return r.taken.IsZero() })
}

// without returns what of a message is not in ranges.
func without(ranges []entryRange, m pb.Message) (rest pb.Message, some bool) {
	for _, r := range ranges {
		if r.term != m.Term || m.LogIndex < r.before || m.LogIndex >= r.last {
			continue
		}
		known := r.last - m.LogIndex
		if known >= uint64(len(m.Entries)) {
			return m, false
		}
		m.LogIndex, m.LogTerm = r.last, m.Entries[known-1].Term
		m.Entries = m.Entries[known:]
	}
	return m, true
}

// prune forgets what was taken before.
func (u *underway) prune(before time.Time) {
	kept := u.ranges[:0]
	for _, r := range u.ranges {
		if r.taken.IsZero() || r.taken.After(before) {
			kept = append(kept, r)
		}
	}
	u.ranges = kept
}

// queued notes the messages of a batch.
func (u *underway) queued(number uint64, size int, messages []pb.Message) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if size < underwayLeast && len(u.ranges) == 0 {
		return
	}
	var taken time.Time
	if number <= u.upTo {
		taken = time.Now()
	}
	for _, m := range messages {
		if m.Type == pb.Replicate && len(m.Entries) > 0 && len(u.ranges) < maxUnderway {
			r := rangeOf(m)
			r.number, r.taken = number, taken
			u.ranges = append(u.ranges, r)
		}
	}
}

// took notes that the connection has taken all batches up to number.
func (u *underway) took(number uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.upTo = number
	now := time.Now()
	for i := range u.ranges {
		if u.ranges[i].taken.IsZero() && u.ranges[i].number <= number {
			u.ranges[i].taken = now
		}
	}
}
