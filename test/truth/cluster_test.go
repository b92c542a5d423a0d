package truth

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/kv"
	"holdfast/mvcc"
)

// cluster is what a consensus protocol promises, without one: a log, and replicas that apply it, the second one late. Each
// change is noted in the instant in which it is made.
type cluster struct {
	t     *testing.T
	dir   string
	rand  *rand.Rand
	plant plant

	mu        sync.Mutex
	log       []kv.Command
	longer    chan struct{} // closed when the log grows, or is another
	replicas  [2]*replica
	histories []*history
	granted   map[[16]byte]int // the history in which an origin's queue epoch was granted
	stores    int
	commits   map[string]int // by value: how often it was applied
	order     map[string][]string
}

// history is what happened between two restores.
type history struct {
	epoch kv.Epoch
	ended time.Time // zero while it goes on
	keys  map[string][]state
}

// state is a key from one write to the next.
type state struct {
	from time.Time
	mod  int64 // 0: it does not exist
	rev  int64 // of the write that began it
	what string
	// restored says that it was there when its history began
	restored bool
}

// replica is a member as an uplink sees it.
type replica struct {
	c       *cluster
	late    bool
	mu      sync.Mutex
	store   *mvcc.Store
	applied int           // entries
	changed chan struct{} // closed when applied grows
}

func newCluster(t *testing.T, seed uint64, p plant) *cluster {
	c := &cluster{t: t, dir: t.TempDir(), rand: rand.New(rand.NewPCG(seed, 2)), plant: p, longer: make(chan struct{}),
		granted: map[[16]byte]int{}, commits: map[string]int{}, order: map[string][]string{}}
	c.found([]kv.Command{{}}, nil)
	return c
}

func (c *cluster) n(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rand.IntN(n)
}

// found begins a history with a log, whose first command names it. The replicas of the former one are of no use any more.
func (c *cluster) found(log []kv.Command, before *history) {
	h := &history{epoch: kv.Epoch{Cluster: 7}, keys: map[string][]state{}}
	h.epoch.Nonce[0] = byte(len(c.histories) + 1)
	log[0] = kv.Command{Ops: []kv.Op{kv.OpenEpoch{Epoch: h.epoch}}}
	c.histories = append(c.histories, h)
	c.log = nil
	for i := range c.replicas {
		c.stores++
		s, err := mvcc.Open(filepath.Join(c.dir, fmt.Sprint(c.stores, ".db")), mvcc.Options{})
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { _ = s.Close() })
		c.replicas[i] = &replica{c: c, store: s, late: i > 0, changed: make(chan struct{})}
	}
	for _, cmd := range log {
		c.append(cmd, before == nil)
	}
	if before != nil { // what is there is there from now on
		top := c.replicas[0].store.Revision()
		for k, states := range before.keys {
			for _, s := range states {
				if s.rev <= top {
					s.from, s.restored = time.Now(), true
					h.keys[k] = append(h.keys[k], s)
				}
			}
		}
	}
	close(c.longer)
	c.longer = make(chan struct{})
}

// restore goes back to what the log was a while ago, as a backup has it.
func (c *cluster) restore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	back := len(c.log) - c.rand.IntN(min(40, len(c.log)))
	was := c.histories[len(c.histories)-1]
	was.ended = time.Now()
	c.found(append([]kv.Command(nil), c.log[:max(back, 1)]...), was)
}

// append commits a command: the first replica applies it, and it is noted. c.mu is held.
func (c *cluster) append(cmd kv.Command, note bool) kv.Outcome {
	lead := c.replicas[0]
	outs, err := lead.store.Apply([]mvcc.Entry{{Index: uint64(len(c.log) + 1), Command: cmd}})
	if err != nil {
		c.t.Error(err)
		return kv.Outcome{Err: kv.Errorf(kv.Internal, "%v", err)}
	}
	before := lead.applied
	c.log = append(c.log, cmd)
	lead.grow(before + 1)
	if note {
		c.note(cmd, outs[0])
	}
	close(c.longer)
	c.longer = make(chan struct{})
	return outs[0]
}

// note writes down what a command has changed, once: a command whose revision is old was there before.
func (c *cluster) note(cmd kv.Command, out kv.Outcome) {
	if out.Err != nil {
		return
	}
	for i, op := range cmd.Ops {
		switch op := op.(type) {
		case kv.Each:
			for j, one := range op.Commands {
				c.note(one, out.Result.Ops[i].Each[j])
			}
		case kv.Put:
			c.change(string(op.Key), string(op.Value), out.Result.Revision, out.Result.Revision)
		case kv.Delete:
			if out.Result.Ops[i].Count > 0 {
				c.change(string(op.Key), "", 0, out.Result.Revision)
			}
		case kv.OpenQueue:
			c.granted[op.Origin] = len(c.histories)
		}
	}
}

func (c *cluster) change(key, value string, mod, rev int64) {
	h := c.histories[len(c.histories)-1]
	states := h.keys[key]
	if n := len(states); n > 0 && states[n-1].rev >= rev {
		return // an outcome that was known already
	}
	h.keys[key] = append(states, state{from: time.Now(), mod: mod, rev: rev, what: value})
	if value != "" {
		c.commits[value]++
		c.order[key] = append(c.order[key], value)
	}
}

// stamped refuses commands whose numbers were granted before a restore, as a store does whose backup has the grant.
func (c *cluster) stamped(cmd kv.Command) *kv.Error {
	if s := cmd.ID.Seq; !s.IsZero() && c.granted[s.Origin] != len(c.histories) {
		return kv.Errorf(kv.OriginConflict, "granted before the cluster was restored")
	}
	return nil
}

// commit is Do without delay or loss.
func (c *cluster) commit(cmd kv.Command) kv.Outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plant == plantTwice && c.rand.IntN(20) == 0 {
		if two := twice(cmd); two.Ops != nil {
			out := c.append(two, true)
			out.Result.Ops[0].Each = out.Result.Ops[0].Each[1:]
			return out
		}
	}
	if c.plant == plantLost && c.rand.IntN(20) == 0 || c.plant == plantOverwrite {
		cmd = c.tampered(cmd)
	}
	e, isEach := cmd.Ops[0].(kv.Each)
	if !isEach {
		if err := c.stamped(cmd); err != nil {
			return kv.Outcome{Err: err}
		}
		return c.append(cmd, true)
	}
	for _, one := range e.Commands { // all are of one origin
		if err := c.stamped(one); err != nil {
			out := kv.Outcome{Result: kv.Result{Ops: []kv.OpResult{{}}}}
			out.Result.Epoch = c.histories[len(c.histories)-1].epoch
			for range e.Commands {
				out.Result.Ops[0].Each = append(out.Result.Ops[0].Each, kv.Outcome{Err: err})
			}
			return out
		}
	}
	return c.append(cmd, true)
}

// twice is a fault: a queued write is applied without its number first.
func twice(cmd kv.Command) kv.Command {
	e, ok := cmd.Ops[0].(kv.Each)
	if !ok || len(e.Commands) == 0 {
		return kv.Command{}
	}
	if _, put := e.Commands[0].Ops[0].(kv.Put); !put {
		return kv.Command{}
	}
	return kv.Command{Ops: []kv.Op{kv.Each{Commands: append([]kv.Command{{Ops: e.Commands[0].Ops}}, e.Commands...)}}}
}

// tampered is a fault: the first write of a queue's batch goes elsewhere, or all are applied whatever they would overwrite.
func (c *cluster) tampered(cmd kv.Command) kv.Command {
	e, ok := cmd.Ops[0].(kv.Each)
	if !ok {
		return cmd
	}
	commands := slices.Clone(e.Commands)
	for i := range commands {
		if c.plant == plantOverwrite {
			commands[i].Guards = nil
		} else if _, put := commands[i].Ops[0].(kv.Put); put && i == 0 {
			commands[i].Guards, commands[i].Ops = nil, []kv.Op{kv.Put{Key: []byte("elsewhere")}}
		}
	}
	return kv.Command{Ops: []kv.Op{kv.Each{Commands: commands}}}
}

func (r *replica) grow(to int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applied = to
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *replica) at() (n int, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.applied, r.changed
}

// follow applies the log late, until ctx ends or the replica is of a former history.
func (r *replica) follow(ctx context.Context) {
	for ctx.Err() == nil {
		r.c.mu.Lock()
		log, longer, mine := r.c.log, r.c.longer, r.c.replicas[1] == r
		r.c.mu.Unlock()
		n, _ := r.at()
		switch {
		case !mine:
			return
		case n == len(log):
			select {
			case <-longer:
			case <-ctx.Done():
			}
			lag := 30
			if r.c.n(15) == 0 {
				lag = 4000
			}
			time.Sleep(time.Duration(r.c.n(lag)) * time.Millisecond)
			continue
		}
		if _, err := r.store.Apply([]mvcc.Entry{{Index: uint64(n + 1), Command: log[n]}}); err != nil {
			r.c.t.Error(err)
			return
		}
		r.grow(n + 1)
	}
}

// reach waits until the replica has applied n entries.
func (r *replica) reach(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		have, changed := r.at()
		if have >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return kv.Errorf(kv.NoLeader, "this member is behind")
		}
	}
}

func (r *replica) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	time.Sleep(time.Duration(r.c.n(10)) * time.Millisecond)
	r.c.mu.Lock()
	mine := r.c.replicas[0] == r || r.c.replicas[1] == r
	r.c.mu.Unlock()
	if !mine {
		return kv.Result{}, kv.Errorf(kv.NoLeader, "this member was replaced")
	}
	out := r.c.commit(cmd)
	if out.Err != nil {
		return kv.Result{}, out.Err
	}
	r.c.mu.Lock()
	n := len(r.c.log)
	r.c.mu.Unlock()
	if err := r.reach(ctx, n); err != nil {
		return kv.Result{}, kv.Errorf(kv.OutcomeUnknown, "applied elsewhere: %v", err)
	}
	return out.Result, nil
}

func (r *replica) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	if q.MaxAge != kv.Unlimited {
		r.c.mu.Lock()
		n, mine := len(r.c.log), r.c.replicas[0] == r || r.c.replicas[1] == r
		r.c.mu.Unlock()
		if !mine {
			return kv.Page{}, kv.Errorf(kv.NoLeader, "this member was replaced")
		}
		if err := r.reach(ctx, n); err != nil {
			return kv.Page{}, err
		}
	}
	for deadline := time.Now().Add(q.Wait); r.store.Revision() < q.MinRevision; {
		_, changed := r.at()
		if r.store.Revision() >= q.MinRevision {
			break
		}
		select {
		case <-changed:
		case <-time.After(time.Until(deadline)):
			return kv.Page{}, kv.Errorf(kv.RevisionTimeout, "revision %d was not reached", q.MinRevision)
		}
	}
	page, err := r.store.Read(q)
	if err == nil && q.MaxAge == kv.Unlimited {
		page.Age = kv.AgeUnknown
	}
	return page, err
}

func (r *replica) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return r.store.Watch(ctx, spec)
}

// historyOf is the history with an epoch, nil if there never was one.
func (c *cluster) historyOf(e kv.Epoch) *history {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.histories {
		if h.epoch == e {
			return &history{epoch: e, ended: h.ended, keys: maps.Clone(h.keys)}
		}
	}
	return nil
}
