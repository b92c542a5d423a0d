// Package gcpace lets a process that works hard collect garbage less often, and one that rests keep no memory for it.
//
// The collector runs each time the heap has doubled. What a node holds is a few megabytes, so that under load it ran ten
// times a second, which took a tenth of the CPU of a PUT. A pacer gives the heap some megabytes of room while
// collections come fast, and takes them back, pages included, once they have ceased.
package gcpace

import (
	"context"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// fast is the time from one collection to the next below which a process works hard.
	fast = 500 * time.Millisecond
	// rest is the time without a collection after which the room is taken back. The runtime's own collection of every
	// two minutes is no work.
	rest = 10 * time.Second
	// usual is the growth of the heap, in percent, after which the collector runs unless it is told otherwise.
	usual = 100
	// step is the difference in percent that is worth telling the collector, which stops the process for a moment.
	step = 25

	// A heap of more than lean grows by all of that and a leanShare of the rest before the collector runs, which is less than
	// the usual: what a heap grows by it also keeps, since what lives on lies strewn among what does not. Ten thousand
	// connections made within a minute would else cost twice what they hold, for as long as they last.
	lean      = 24 << 20
	leanShare = 16

	// roomMax is how far the heap may grow beyond what is in use while the process works hard: two or three collections
	// for ten.
	roomMax = 24 << 20
	// roomShare of the memory of a small machine is as much as it gets there.
	roomShare = 32
)

// Room is how far the heap may grow beyond what is in use on a machine with so many bytes of memory.
func Room(memory uint64) uint64 { return min(roomMax, memory/roomShare) }

// Run paces the collector of this process, with so many bytes of room, until ctx ends; there may be one at a time. It
// does nothing where GOGC is set in the environment: somebody has decided then. GOMEMLIMIT goes before the room.
func Run(ctx context.Context, room uint64) {
	if os.Getenv("GOGC") != "" {
		return
	}
	p := pacer{room: room, fast: fast, rest: rest, percent: usual, set: tell}
	p.run(ctx, collections(ctx), inUse)
}

// pacer is one Run.
type pacer struct {
	room       uint64
	fast, rest time.Duration
	percent    int // as last set
	set        func(percent int)
}

// run is told of each collection. Between them it does nothing, unless there is room to be taken back.
func (p *pacer) run(ctx context.Context, collected <-chan struct{}, inUse func() uint64) {
	defer p.change(usual)
	var last time.Time
	hard := false
	resting := time.NewTimer(0)
	resting.Stop()
	defer resting.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-collected:
			now := time.Now()
			hard = hard || now.Sub(last) < p.fast
			last = now
			use := inUse()
			if !hard {
				p.change(usualOf(use))
				continue
			}
			p.change(percentOf(p.room, use))
			resting.Reset(p.rest)
		case <-resting.C:
			hard = false
			p.change(usualOf(inUse()))
			debug.FreeOSMemory()
		}
	}
}

func (p *pacer) change(percent int) {
	if diff := percent - p.percent; percent != p.percent && (percent == usual || diff <= -step || diff >= step) {
		p.percent = percent
		p.set(percent)
	}
}

// percentOf is the growth that comes to so much room, and never less than the usual.
func percentOf(room, inUse uint64) int {
	return int(min(max(room*100/max(inUse, 1), uint64(usualOf(inUse))), math.MaxInt32))
}

// usualOf is the growth of a heap at rest.
func usualOf(inUse uint64) int {
	if inUse <= lean {
		return usual
	}
	return int((lean + (inUse-lean)/leanShare) * 100 / inUse)
}

// inUse is what the growth of the heap is counted from: the objects that the last collection has found in use, and
// beside them stacks and global variables.
func inUse() (sum uint64) {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(samples)
	for _, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			sum += s.Value.Uint64()
		}
	}
	return sum
}

// collections returns a channel of one slot that gets a word after each collection until ctx ends. The word comes from a
// finalizer, on a goroutine of the runtime's, so that a process at rest is not woken to look.
func collections(ctx context.Context) <-chan struct{} {
	told := make(chan struct{}, 1)
	type sentinel struct{ _ [16]byte } // of a size that the runtime does not join with other objects
	var again func(*sentinel)
	again = func(s *sentinel) {
		if ctx.Err() != nil {
			return
		}
		select {
		case told <- struct{}{}:
		default:
		}
		runtime.SetFinalizer(s, again)
	}
	runtime.SetFinalizer(&sentinel{}, again)
	return told
}
