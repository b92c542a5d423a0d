package auth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/kv"
)

// MirrorOptions is what a Mirror needs; all of it is required.
type MirrorOptions struct {
	Node       string                                                 // id of this node
	Ask        func(ctx context.Context, q kv.Query) (kv.Page, error) // the cluster
	From       *Policy                                                // of the member that this node was until now, whose policy it goes on with; else nil
	Kept       []byte                                                 // what Keep was given last; nil for nothing
	Keep       func(content []byte) error                             // makes it durable, in the place of what was there
	Clock      func() time.Duration                                   // since boot, suspend included
	Now        func() time.Time                                       // not before what the cluster has said last
	MaxOffline time.Duration                                          // how long the policy is good for without the cluster; 0: for ever
	Log        *slog.Logger
}

// The pace of a Mirror.
const (
	mirrorEvery   = 10 * time.Minute // between questions when nothing has been heard of a change
	mirrorWait    = 10 * time.Second // for an answer
	firstRetry    = 100 * time.Millisecond
	mirrorRetry   = time.Second // after a question without an answer, doubled up to mirrorEvery
	mirrorsKept   = 16          // times in MaxOffline that the age of a policy is written down while it stays the same
	mirrorKeptMax = 64 << 20
)

// Mirror is the policy of a proxy: what the cluster has said last. It is kept over restarts, and judged by for MaxOffline after
// the cluster has confirmed it; then everything is refused with AuthStale until the cluster is heard again. Its age counts
// on over restarts, also of a machine whose clock stands still meanwhile.
//
// A node that has never heard a policy has none: see Source. A policy under which authentication is off does not age: it
// is off until the cluster says otherwise.
type Mirror struct {
	o    MirrorOptions
	poke chan struct{} // of one slot
	at   atomic.Pointer[mirrored]

	mu      sync.Mutex
	changed chan struct{} // nil until somebody waits

	asking  chan struct{} // of one slot, taken by who asks: one question at a time; guards what follows
	written time.Duration // Clock when the file was written last
}

// mirrored is a policy and how old it is.
type mirrored struct {
	policy  *Policy
	text    string // by which the cluster tells whether it has another
	raw     []byte
	damaged bool          // what was kept cannot be read: nothing is known, and nothing is let through
	age     time.Duration // when Clock was since
	since   time.Duration
}

// keptMirror is the file, before its checksum.
type keptMirror struct {
	Text      string        `json:"text"`
	Policy    []byte        `json:"policy"` // empty if the cluster is of a version without policies
	Confirmed time.Time     `json:"confirmed"`
	Age       time.Duration `json:"age"` // when this was written
}

// NewMirror returns a Mirror of what was kept. Damaged content is no error: until the cluster has answered, all is refused.
func NewMirror(o MirrorOptions) *Mirror {
	m := &Mirror{o: o, poke: make(chan struct{}, 1), asking: make(chan struct{}, 1), written: o.Clock()}
	if o.From != nil {
		h := &mirrored{text: o.From.Text(), raw: o.From.Encode(), since: o.Clock()}
		var err error
		if h.policy, err = Decode(h.raw); err == nil {
			err = m.keep(h)
		}
		if err != nil {
			o.Log.Error("the policy of the member that this node was is not kept: nothing is served until the cluster answers", "err", err)
			h = &mirrored{damaged: true}
		}
		m.at.Store(h)
		return m
	}
	if o.Kept == nil {
		return m
	}
	h, err := m.parse(o.Kept)
	if err != nil {
		o.Log.Error("the policy that was kept is damaged: nothing is served until the cluster answers", "err", err)
		h = &mirrored{damaged: true}
	}
	m.at.Store(h)
	return m
}

func (m *Mirror) parse(content []byte) (*mirrored, error) {
	n := len(content) - sha256.Size
	if n < 0 || sha256.Sum256(content[:n]) != [sha256.Size]byte(content[n:]) {
		return nil, errors.New("its checksum does not fit")
	}
	var k keptMirror
	if err := json.Unmarshal(content[:n], &k); err != nil {
		return nil, err
	}
	h := &mirrored{text: k.Text, raw: k.Policy, age: max(k.Age, m.o.Now().Sub(k.Confirmed)), since: m.o.Clock()}
	var err error
	if len(k.Policy) > 0 {
		h.policy, err = Decode(k.Policy)
	}
	return h, err
}

// keep writes a policy down. It is called with asking held, or before anybody else has the Mirror.
func (m *Mirror) keep(h *mirrored) error {
	now := m.o.Clock()
	age := h.age + now - h.since
	content, err := json.Marshal(keptMirror{Text: h.text, Policy: h.raw, Confirmed: m.o.Now().Add(-age), Age: age})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	if err := m.o.Keep(append(content, sum[:]...)); err != nil {
		return fmt.Errorf("keep the policy: %w", err)
	}
	m.written = now
	return nil
}

// Self is as whom this node asks the cluster.
func (m *Mirror) Self() kv.By { return kv.By{Principal: kv.NodePrincipal + m.o.Node} }

// Source is what a Guard of this node judges by.
func (m *Mirror) Source() Source {
	return Source{
		Policy: func() (*Policy, bool) {
			h := m.at.Load()
			if h == nil {
				return nil, false
			}
			return h.policy, true
		},
		Changed: m.wait,
		Stale:   m.stale,
	}
}

// Age is how long ago the cluster confirmed the policy; false: this node has none.
func (m *Mirror) Age() (time.Duration, bool) {
	h := m.at.Load()
	if h == nil || h.damaged {
		return 0, false
	}
	return h.age + m.o.Clock() - h.since, true
}

func (m *Mirror) stale() error {
	h := m.at.Load()
	switch {
	case h == nil:
		return nil
	case h.damaged:
		return kv.Errorf(kv.AuthStale, "this node's copy of the policy is damaged: it serves again once the cluster has answered")
	case !h.policy.Enabled() || m.o.MaxOffline <= 0:
		return nil
	}
	if age := h.age + m.o.Clock() - h.since; age > m.o.MaxOffline {
		return kv.Errorf(kv.AuthStale, "this node has not heard from the cluster for %v, and judges by its policy for auth.max-offline (%v) only: see to its uplink",
			age.Round(time.Second), m.o.MaxOffline)
	}
	return nil
}

func (m *Mirror) wait() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	return m.changed
}

// set puts another policy in force.
func (m *Mirror) set(h *mirrored) {
	m.at.Store(h)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// Heard tells that the cluster has a policy with a text, see Policy.Text; the Mirror asks for it if it has another. Nothing is
// told by "".
func (m *Mirror) Heard(text string) {
	if h := m.at.Load(); text == "" || h != nil && h.text == text {
		return
	}
	select {
	case m.poke <- struct{}{}:
	default:
	}
}

// FirstWithin waits until this node has a policy, d at most. What the cluster is asked before that, and kept, is served to anybody.
func (m *Mirror) FirstWithin(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for m.at.Load() == nil && ctx.Err() == nil {
		if err := m.ask(ctx); err != nil {
			m.sleep(ctx, firstRetry)
		}
	}
}

// sleep waits, and no longer once a change was heard of.
func (m *Mirror) sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-m.poke:
	case <-ctx.Done():
	}
}

// Run keeps up with the cluster until ctx ends. Then it writes down how old the policy has become.
func (m *Mirror) Run(ctx context.Context) {
	every := mirrorEvery
	if m.o.MaxOffline > 0 {
		every = min(every, m.o.MaxOffline/3) // so that one answer may be missed
	}
	pause, retry := every, min(mirrorRetry, every)
	for {
		m.sleep(ctx, pause/2+rand.N(pause/2)) //nolint:gosec // spreads load
		if ctx.Err() != nil {
			m.grow(every)
			return
		}
		if err := m.ask(ctx); err == nil {
			pause, retry = every, min(mirrorRetry, every)
		} else {
			pause, retry = retry, min(2*retry, every)
		}
		m.grow(m.o.MaxOffline / mirrorsKept)
	}
}

// grow writes the age of the policy down if that was done more than least ago: it has grown since, or become less.
func (m *Mirror) grow(least time.Duration) {
	select {
	case m.asking <- struct{}{}:
	default: // the answer to who asks says more
		return
	}
	defer func() { <-m.asking }()
	h := m.at.Load()
	if h == nil || h.damaged || m.o.MaxOffline <= 0 || m.o.Clock()-m.written <= least {
		return
	}
	if err := m.keep(h); err != nil {
		m.o.Log.Error("the age of the policy is not written down", "err", err)
	}
}

// ask asks once, and keeps what comes before it is in force: a right that was withdrawn stays so over a crash.
func (m *Mirror) ask(ctx context.Context) error {
	select { // no mutex: who has it waits for the link, and who is stopped meanwhile does not
	case m.asking <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-m.asking }()
	ctx, cancel := context.WithTimeout(ctx, mirrorWait)
	defer cancel()
	op := kv.ReadAuth{What: kv.AuthPolicy}
	was := m.at.Load()
	if was != nil && !was.damaged {
		op.Name = was.text
	}
	asked := m.o.Clock()
	page, err := m.o.Ask(ctx, kv.Query{By: m.Self(), Ops: []kv.Op{op}})
	next := &mirrored{since: asked}
	switch {
	case kv.CodeOf(err) == kv.Unsupported && (was == nil || was.raw == nil && !was.damaged): // members of a version without policies
	case err != nil:
		return err
	case len(page.Ops) != 1:
		return errors.New("the cluster's answer has no policy")
	case len(page.Ops[0].KVs) == 0 && op.Name == "":
		return errors.New("the cluster says that this node has its policy, which it has not")
	case len(page.Ops[0].KVs) == 0:
		next.policy, next.text, next.raw = was.policy, was.text, was.raw
	default:
		v := page.Ops[0].KVs[0]
		if len(v.Value) > mirrorKeptMax {
			return kv.Errorf(kv.TooLarge, "the policy has %d bytes", len(v.Value))
		}
		if next.policy, err = Decode(v.Value); err != nil {
			return err
		}
		next.text, next.raw = string(v.Key), v.Value
	}
	if was != nil && !was.damaged && was.text == next.text {
		m.at.Store(next)
		return nil
	}
	if err := m.keep(next); err != nil {
		m.o.Log.Error("the policy is in force and not kept: after a restart the former one is", "err", err)
	}
	m.set(next)
	m.o.Log.Info("policy taken over", "enabled", next.policy.Enabled(), "revision", next.policy.Revision())
	return nil
}
