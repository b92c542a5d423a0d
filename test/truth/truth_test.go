package truth

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
	"holdfast/queue"
)

// plant is a fault that a run must find.
type plant int

const (
	plantNone      plant = iota
	plantTwice           // a queued write is applied twice
	plantYoung           // an age is too young: something stale is shown as fresh
	plantBack            // an answer of before comes again
	plantGap             // a watch leaves out a batch
	plantLost            // a write that was acknowledged is lost
	plantOverwrite       // a queued write overwrites a newer one
	plantInvent          // what is not known is answered
	plantMixed           // a list has what is newer than it says
	plants
)

var plantNames = [plants]string{"none", "twice", "young", "back", "gap", "lost", "overwrite", "invent", "mixed"}

// world is the cluster, the boxes, their devices, and whatever happens to them.
type world struct {
	t       *testing.T
	seed    uint64
	plant   plant
	place   *place
	cluster *cluster
	boxes   []*box
	members [2]*running
	copies  int

	mu      sync.Mutex
	rand    *rand.Rand
	values  int
	wrong   []string
	former  map[string]kv.Page // of plantBack
	counted map[string]int
}

func (w *world) n(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.IntN(n)
}

func (w *world) complain(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

func (w *world) happened(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counted[what]++
}

// tamper plants the faults of reads.
func (w *world) tamper(b *box, key string, page kv.Page, err error) (kv.Page, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.plant == plantInvent && kv.CodeOf(err) == kv.NotCached:
		epoch := w.cluster.histories[len(w.cluster.histories)-1].epoch
		return kv.Page{Header: kv.Header{Epoch: epoch, Revision: 1}, Source: kv.SourceCache, Age: kv.AgeUnknown, Ops: []kv.OpResult{{}}}, nil
	case err != nil:
	case w.plant == plantMixed && w.rand.IntN(10) == 0:
		page.Revision--
	case w.plant == plantYoung && page.Age > 0:
		page.Age /= 4
	case w.plant == plantBack:
		if former, ok := w.former[b.name+key]; ok && w.rand.IntN(10) == 0 {
			return former, nil
		}
		if w.rand.IntN(10) == 0 {
			w.former[b.name+key] = page
		}
	}
	return page, err
}

// TestEveryViewIsTrueOfWhatHappened runs for TRUTH of virtual time (20 minutes unless it is set), from SEED if that is set.
func TestEveryViewIsTrueOfWhatHappened(t *testing.T) {
	span := 20 * time.Minute
	if text := os.Getenv("TRUTH"); text != "" {
		var err error
		if span, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	seed := rand.Uint64()
	if text := os.Getenv("SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d, %v of virtual time", seed, span)
	w := live(t, seed, span, plantNone)
	for i, what := range w.wrong {
		if i == 10 {
			t.Errorf("and %d more", len(w.wrong)-i)
			break
		}
		t.Errorf("seed %d: %s", seed, what)
	}
	t.Logf("%v", w.counted)
	for _, what := range []string{"200", "202", "cut", "proxy killed", "member killed", "restored", "compacted", "disk rolled back", "away past a compaction", "clock jumped", "same receipt"} {
		if w.counted[what] == 0 {
			t.Errorf("seed %d: nothing was tried of this: %s", seed, what)
		}
	}
}

// A check that cannot fail proves nothing.
func TestPlantedFaultsAreFound(t *testing.T) {
	for p := plantNone + 1; p < plants; p++ {
		t.Run(plantNames[p], func(t *testing.T) {
			for seed := range uint64(4) {
				if w := live(t, seed, 10*time.Minute, p); len(w.wrong) > 0 {
					return
				}
			}
			t.Error("four runs found nothing")
		})
	}
}

func live(t *testing.T, seed uint64, span time.Duration, p plant) (w *world) {
	synctest.Test(t, func(t *testing.T) {
		w = &world{t: t, seed: seed, plant: p, place: newPlace(t, seed), cluster: newCluster(t, seed, p), rand: rand.New(rand.NewPCG(seed, 1)),
			former: map[string]kv.Page{}, counted: map[string]int{}}
		w.run(span)
	})
	return w
}

// foreign is how many keys there are that no proxy mirrors.
const foreign = 16

func (w *world) run(span time.Duration) {
	for i := range w.members {
		w.startMember(i)
	}
	for i := range 2 {
		b := &box{w: w, name: fmt.Sprint("p", i+1), dir: w.t.TempDir(), users: make(chan struct{}, 12), floors: map[string]map[string]int{}, ended: map[string]queue.State{}, again: map[string]bool{}}
		b.start()
		w.boxes = append(w.boxes, b)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var devices sync.WaitGroup
	busy := func(every time.Duration, do func()) {
		devices.Go(func() {
			for ctx.Err() == nil {
				do()
				time.Sleep(time.Duration(1 + w.n(int(every))))
			}
		})
	}
	for _, b := range w.boxes {
		keys := []string{"m/0", "m/1", "q/0", "q/1", "q/2", "s/" + b.name + "/0", "s/" + b.name + "/1"}
		for i := range foreign {
			keys = append(keys, fmt.Sprint("x/", i))
		}
		keys = append(keys, "e/0") // whose writes expire
		for range 2 {
			busy(time.Second, func() { b.read(keys[w.n(len(keys))]) })
		}
		for _, own := range keys[5:7] { // one writer each, so that there is an order
			busy(4*time.Second, func() { b.write(own) })
		}
		busy(3*time.Second, func() { b.write(keys[w.n(5)]) })
		busy(5*time.Second, func() { b.write("e/0") })
		busy(20*time.Second, b.repeat)
		busy(10*time.Minute, func() { b.look(true) })
		devices.Go(func() { b.watch(ctx, "m/") })
		devices.Go(func() { b.watch(ctx, "q/") })
		devices.Go(func() { b.watch(ctx, "x/") })
	}
	busy(time.Second, func() { // somebody else, at the cluster
		key := fmt.Sprint("x/", w.n(foreign))
		if w.n(2) == 0 {
			key = []string{"m/0", "m/1", "q/0", "q/1"}[w.n(4)]
		}
		op := kv.Op(kv.Put{Key: []byte(key)})
		if w.n(4) == 0 {
			op = kv.Delete{Key: []byte(key)}
		}
		w.cluster.commit(kv.Command{Ops: []kv.Op{op}})
	})
	for i, began := 0, time.Now(); time.Since(began) < span; i++ {
		time.Sleep(time.Duration(1+w.n(20_000)) * time.Millisecond)
		kind := i // each kind once at least
		if i >= troubles {
			kind = w.n(troubles)
		}
		w.trouble(kind)
	}
	cancel()
	for _, b := range w.boxes {
		for _, m := range []string{"m1", "m2"} {
			w.place.net.Heal(b.name, m)
		}
	}
	w.settle(&devices)
	w.account()
	for _, b := range w.boxes {
		b.end(false)
	}
	for _, m := range w.members {
		m.end()
	}
}

func (w *world) startMember(i int) {
	w.members[i] = w.place.member(fmt.Sprint("m", i+1), w.cluster.replicas[i])
}

const troubles = 12

// trouble does one thing to the world.
func (w *world) trouble(kind int) {
	b := w.boxes[w.n(len(w.boxes))]
	switch kind {
	case 0, 1, 2:
		w.happened("cut")
		for _, m := range [][]string{{"m1"}, {"m2"}, {"m1", "m2"}}[w.n(3)] {
			w.place.net.Cut(b.name, m)
		}
		time.Sleep(time.Duration(w.n(60_000)) * time.Millisecond)
		w.place.net.Heal(b.name, "m1")
		w.place.net.Heal(b.name, "m2")
	case 3:
		w.happened("loss")
		link := w.place.net.Link(b.name, fmt.Sprint("m", 1+w.n(2)))
		link.Loss(0.1).Delay(time.Duration(10+w.n(800)) * time.Millisecond)
		time.Sleep(time.Duration(w.n(120_000)) * time.Millisecond)
		link.Loss(0).Delay(5 * time.Millisecond)
	case 4, 5:
		w.reboot(b, kind == 4, "")
	case 6:
		w.happened("member killed")
		i := w.n(2)
		w.members[i].end()
		time.Sleep(time.Duration(w.n(20_000)) * time.Millisecond)
		w.startMember(i)
	case 7:
		w.happened("compacted")
		w.cluster.commit(kv.Command{Ops: []kv.Op{kv.Compact{Revision: w.cluster.revision()}}})
	case 8:
		w.happened("restored")
		for _, m := range w.members {
			m.end()
		}
		w.cluster.restore()
		time.Sleep(time.Duration(w.n(5_000)) * time.Millisecond)
		for i := range w.members {
			w.startMember(i)
		}
	case 9:
		w.rollBack(b)
	case 10:
		w.happened("away past a compaction")
		w.place.net.Cut(b.name, "m1")
		w.place.net.Cut(b.name, "m2")
		time.Sleep(time.Duration(5_000+w.n(60_000)) * time.Millisecond)
		w.cluster.commit(kv.Command{Ops: []kv.Op{kv.Compact{Revision: w.cluster.revision()}}})
		w.place.net.Heal(b.name, "m1")
		w.place.net.Heal(b.name, "m2")
	case 11:
		w.happened("clock jumped")
		b.slept.Add(int64(w.n(3_600_000)) * int64(time.Millisecond))
	}
}

// reboot ends a box and starts it again, on another disk if one is named.
func (w *world) reboot(b *box, kill bool, disk string) {
	if kill {
		w.happened("proxy killed")
	}
	done := w.quiet(b)
	b.end(kill)
	if disk != "" {
		_ = os.RemoveAll(b.dir)
		b.dir = disk
		b.mu.Lock()
		b.floors = map[string]map[string]int{} // such a disk cannot know what was read through it; before anybody reads again
		b.mu.Unlock()
	}
	time.Sleep(time.Duration(w.n(3_000)) * time.Millisecond)
	b.start()
	done()
}

// quiet waits until nobody uses the box; whoever waits for something there is told that it ends.
func (w *world) quiet(b *box) (done func()) {
	b.run.stop()
	return b.alone()
}

// rollBack gives a box the disk that it had a while ago.
func (w *world) rollBack(b *box) {
	done := w.quiet(b)
	b.run.end()
	disk, copied := b.copy(), time.Now()
	b.end(false)
	b.start()
	done()
	time.Sleep(time.Duration(w.n(40_000)) * time.Millisecond)
	w.happened("disk rolled back")
	w.reboot(b, true, disk)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.acks {
		a.exempt = a.exempt || !a.at.Before(copied)
	}
}

func (c *cluster) revision() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.replicas[0].store.Revision()
}

// settle waits until the queues are empty.
func (w *world) settle(devices *sync.WaitGroup) {
	for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(time.Second) {
		left := 0
		for _, b := range w.boxes {
			left += b.q.Status().Depth
		}
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			for _, b := range w.boxes {
				w.complain("%s: its queue does not drain: %+v", b.name, b.q.Status())
			}
			break
		}
	}
	for _, b := range w.boxes { // ends the watches too
		done := w.quiet(b)
		b.end(false)
		b.start()
		done()
	}
	devices.Wait()
}

// account holds every acknowledgement against what was applied.
func (w *world) account() {
	w.cluster.mu.Lock()
	commits, order := w.cluster.commits, w.cluster.order
	w.cluster.mu.Unlock()
	for value, n := range commits {
		again := slices.ContainsFunc(w.boxes, func(b *box) bool { return b.again[value] })
		if n > 1 && !again {
			w.complain("%s was applied %d times", value, n)
		}
	}
	for _, b := range w.boxes {
		b.look(false)
		for _, a := range b.acks {
			n := commits[a.value]
			state, listed := b.ended[a.value]
			switch {
			case a.committed:
				w.counted["200"]++
				if n != 1 {
					w.complain("%s: %s = %s was answered with 200 and applied %d times", b.name, a.key, a.value, n)
				}
			case a.refused && n > 0:
				w.complain("%s: %s = %s was refused and applied", b.name, a.key, a.value)
			case a.queued != "":
				w.counted["202"]++
				if n == 0 && !listed && !a.exempt {
					w.complain("%s: %s = %s was answered with 202 at %v (%s), was never applied, and is listed nowhere", b.name, a.key, a.value, since(a.at), a.queued)
				}
				if n > 0 && listed && state != queue.Unknown && !a.exempt && !b.again[a.value] {
					w.complain("%s: %s = %s is listed as %v and was applied", b.name, a.key, a.value, state)
				}
			}
		}
		w.inOrder(b, order)
		w.overNothingNewer(b)
	}
}

// overNothingNewer looks at queued writes that yield to newer ones by others: what was written after they were acknowledged
// is newer.
func (w *world) overNothingNewer(b *box) {
	queued := map[string]*ack{}
	for _, a := range b.acks {
		if a.queued != "" && !a.exempt && !b.again[a.value] && a.key[0] == 'q' {
			queued[a.value] = a
		}
	}
	for _, h := range w.cluster.histories {
		for key, states := range h.keys {
			for i, s := range states[min(1, len(states)):] {
				a, over := queued[s.what], states[i]
				if a != nil && !s.restored && over.mod > 0 && over.from.After(a.at) && !strings.HasPrefix(over.what, b.name+".") {
					w.complain("%s: %s = %s, acknowledged at %v, has overwritten what was written at %v", b.name, key, s.what, since(a.at), since(over.from))
				}
			}
		}
	}
}

// inOrder looks at the keys that have one writer: what was acknowledged later was applied later.
func (w *world) inOrder(b *box, order map[string][]string) {
	for key, values := range order {
		if len(key) < 4 || key[:2] != "s/" || key[2:2+len(b.name)] != b.name {
			continue
		}
		last := -1
		for _, a := range b.acks {
			if a.key != key || a.exempt || !a.committed && a.queued == "" {
				continue
			}
			if i := slices.Index(values, a.value); i >= 0 {
				if i < last {
					w.complain("%s: %s = %s was applied before what was acknowledged earlier", b.name, key, a.value)
				}
				last = i
			}
		}
	}
}
