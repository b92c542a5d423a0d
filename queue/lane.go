package queue

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/kv"
)

const lanes = 3

var laneNames = [lanes]string{"high", "normal", "bulk"}

// lane is one strand of the queue. Its ops are numbered without a gap and are sent in that order; the number counts on
// for the life of the disk, and sequence = number - base within a queue epoch. The queue's mutex guards it.
type lane struct {
	id     uint8
	next   uint64 // number of the next op
	first  uint64 // number of the first op of this life: those before were on disk when it began
	mark   uint64 // durable: numbers up to it may have been sent
	handed uint64 // newest number given to the sender since start
	before uint64 // what handed was before the last batch
	zone   uint64 // numbers up to it are used at the cluster, though this disk does not know: it was rolled back
	epoch  uint64 // queue epoch, 0 until one is granted
	base   uint64 // last number before the epoch: sequence = number - base
	// recovering counts ops that were on disk at the start and may have been sent in an earlier life. They go up one at a
	// time: each answer is still kept by the cluster, since at most kv.OutcomeRing were unanswered, and nothing new
	// pushes it out before it has been asked for.
	recovering int
	flush      uint64 // numbers up to it go without a limit of rate
	pending    []*op  // in order of number; those before handed+1 are being sent or will be again
}

// op is one write on its way. There may be a million of them: what only a few need is in live.
type op struct {
	lane    *lane
	n       uint64
	key     string
	seen    int64
	history uint64 // the cluster's history that seen is from, 0 if it is not known
	pred    uint64 // the op on the key before it, 0 for none
	succ    *op    // the one after it
	at      int64  // Unix milliseconds
	expires int64  // the same, 0 for never
	place   place
	owner   *owner // whose share it takes, nil for nobody's, and once it has ended
	retry   uint64 // short for its retry key, 0 for none
	size    int32
	hash    uint32 // of the key, see index
	line    int32  // of the last op of its key: how many there are
	rule    int16  // in Options.Rules, -1 for none
	state   State
	guard   Guard
	covered bool
	loaded  bool // live has the command
	durable bool
	rebased bool // its base is another than when it was filed
	recall  bool // it may have been sent, and is to be given up if the cluster does not have it
	skip    bool // stands for numbers up to n that are given up
	*live        // nil for an op that is only on disk
}

// live is what an op has that somebody waits for, or that is about to be sent.
type live struct {
	command kv.Command
	outcome kv.Outcome
	author  string // of an op that has ended: by whom it was written, empty if that is not known
	done    chan struct{}
	keeping chan struct{} // closed when keep has the disk's answer
	asked   bool          // it went up last as a skip of its own number
}

// wake gives an op what it needs to be sent or waited for. The queue's mutex is held.
func (o *op) wake() *live {
	if o.live == nil {
		o.live = &live{done: make(chan struct{})}
		if o.state.Ended() {
			close(o.done)
		}
	}
	return o.live
}

// ID is what the queue calls the op: lane and number.
func (o *op) id() string { return laneNames[o.lane.id] + "-" + strconv.FormatUint(o.n, 10) }

func parseID(id string) (lane uint8, n uint64, ok bool) {
	name, num, found := strings.Cut(id, "-")
	i := slices.Index(laneNames[:], name)
	n, err := strconv.ParseUint(num, 10, 64)
	return uint8(max(i, 0)), n, found && i >= 0 && err == nil && n > 0
}

// until is when a millisecond of the wall clock is, the zero time for none.
func until(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// seq is the op's place in the replicated order.
func (l *lane) seq(origin [16]byte, n uint64) kv.Seq {
	return kv.Seq{Origin: origin, Epoch: l.epoch, Lane: kv.Lane(l.id), N: n - l.base}
}

// wire returns the op as it goes up: its command, its sequence, its guard.
func (o *op) wire(origin [16]byte) kv.Command {
	l := o.lane
	if o.skip {
		return kv.Command{ID: kv.ID{Seq: l.seq(origin, o.n)}, Ops: []kv.Op{kv.Skip{From: 1}}}
	}
	if o.asked = o.recall; o.asked {
		return kv.Command{ID: kv.ID{Seq: l.seq(origin, o.n)}, Ops: []kv.Op{kv.Skip{From: o.n - l.base}}}
	}
	c := o.command
	c.ID.Seq = l.seq(origin, o.n)
	if o.guard == GuardSeen { // from the first time on, see anew
		g := kv.Guard{Compare: kv.Compare{Key: []byte(o.key), Target: kv.TargetMod, Relation: kv.Equal, Num: o.seen}}
		if !o.covered { // anything up to what this node has seen is what the writer could have known
			g.Relation, g.Num = kv.Less, o.seen+1
		}
		if o.pred > l.base {
			g.Or = l.seq(origin, o.pred)
		}
		c.Guards = append(slices.Clone(c.Guards), g)
	}
	return c
}

// find is where the op with a number stands in line, or would.
func (l *lane) find(n uint64) (i int, found bool) {
	return slices.BinarySearchFunc(l.pending, n, func(o *op, n uint64) int { return cmp.Compare(o.n, n) })
}

// remove takes the op out of the pending ones.
func (l *lane) remove(o *op) {
	if len(l.pending) > 0 && l.pending[0] == o {
		l.pending[0] = nil
		l.pending = l.pending[1:]
		return
	}
	if i, found := l.find(o.n); found && l.pending[i] == o {
		l.pending = slices.Delete(l.pending, i, i+1)
	}
}

// fill puts skips where numbers are missing in front of, between and behind the durable ops of a lane just read: those
// numbers were held in memory only and may have been sent.
func (l *lane) fill() {
	prev, holes := l.base, 0
	for _, o := range l.pending {
		if o.n > prev+1 {
			holes++
		}
		prev = o.n
	}
	if holes > 0 {
		whole := make([]*op, 0, len(l.pending)+holes+1)
		prev = l.base
		for _, o := range l.pending {
			if o.n > prev+1 {
				whole = append(whole, l.gap(o.n-1))
			}
			whole = append(whole, o)
			prev = o.n
		}
		l.pending = whole
	}
	if l.mark > prev {
		l.pending = append(l.pending, l.gap(l.mark))
		prev = l.mark
	}
	l.next = max(l.next, prev+1)
}

func (l *lane) gap(n uint64) *op {
	return &op{lane: l, n: n, skip: true, rule: -1, state: Queued}
}

// mayBeKnown reports whether the cluster may have the op: it was handed to the sender, or was on disk when another life of
// the same disk went beyond its number.
func (l *lane) mayBeKnown(o *op) bool {
	return o.n <= l.handed || o.n <= l.zone && o.n < l.first
}

// unsure reports whether the lane has ops that the cluster may have.
func (l *lane) unsure() bool { return len(l.pending) > 0 && l.mayBeKnown(l.pending[0]) }
