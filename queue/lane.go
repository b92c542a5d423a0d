package queue

import (
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
	mark   uint64 // durable: numbers up to it may have been sent
	handed uint64 // newest number given to the sender since start
	epoch  uint64 // queue epoch, 0 until one is granted
	base   uint64 // last number before the epoch: sequence = number - base
	// recovering counts ops that were on disk at the start and may have been sent in an earlier life. They go up one at a
	// time: each answer is still kept by the cluster, since at most kv.OutcomeRing were unanswered, and nothing new
	// pushes it out before it has been asked for.
	recovering int
	pending    []*op // in order; those before handed+1 are being sent or will be again
}

// op is one write on its way.
type op struct {
	lane    *lane
	n       uint64
	key     string
	state   State
	command kv.Command // empty while it is only on disk
	loaded  bool
	guard   Guard
	seen    int64
	covered bool
	pred    uint64
	at      time.Time
	expires time.Time
	size    int64

	keeping chan struct{} // closed when keep has the disk's answer
	durable bool
	place   place
	skip    bool // stands for numbers up to n that are given up
	done    chan struct{}
	outcome kv.Outcome
}

// ID is what the queue calls the op: lane and number.
func (o *op) id() string { return laneNames[o.lane.id] + "-" + strconv.FormatUint(o.n, 10) }

func parseID(id string) (lane uint8, n uint64, ok bool) {
	name, num, found := strings.Cut(id, "-")
	i := slices.Index(laneNames[:], name)
	n, err := strconv.ParseUint(num, 10, 64)
	return uint8(max(i, 0)), n, found && i >= 0 && err == nil && n > 0
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
	c := o.command
	c.ID.Seq = l.seq(origin, o.n)
	if o.guard == GuardSeen && o.durable { // while its writer still waits it is a plain write
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

// remove takes the op out of the pending ones.
func (l *lane) remove(o *op) {
	if len(l.pending) > 0 && l.pending[0] == o {
		l.pending[0] = nil
		l.pending = l.pending[1:]
		return
	}
	l.pending = slices.DeleteFunc(l.pending, func(p *op) bool { return p == o })
}

// fill puts skips where numbers are missing in front of, between and behind the durable ops of a lane just read: those
// numbers were held in memory only and may have been sent.
func (l *lane) fill() {
	var whole []*op
	prev := l.base
	for _, o := range l.pending {
		if o.n > prev+1 {
			whole = append(whole, l.gap(o.n-1))
		}
		whole = append(whole, o)
		prev = o.n
	}
	if l.mark > prev {
		whole = append(whole, l.gap(l.mark))
		prev = l.mark
	}
	l.pending = whole
	l.next = max(l.next, prev+1)
}

func (l *lane) gap(n uint64) *op {
	return &op{lane: l, n: n, skip: true, state: Queued, done: make(chan struct{})}
}
