package agent

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// errand is a change of what the node is, from the request, or from the journal of an earlier run, to its last step.
type errand struct {
	kind  string // as in api.Switch...
	token string // to be promoted with; empty: the one in the configuration
	force bool
	since time.Time
	began time.Time // since, by the clock of this process
	done  chan struct{}

	heard chan struct{} // closed once somebody has been told of the end
	once  sync.Once     // for heard

	mu      sync.Mutex
	log     *slog.Logger // hears of each step; nil before the change has begun
	step    string
	trouble error // why the step does not get on
	err     error // why it was refused, once done is closed
}

// errands hands one change at a time to the goroutine that has the node.
type errands struct {
	next chan *errand // of one place, free while none is under way

	mu  sync.Mutex
	now *errand
}

func newErrands() *errands { return &errands{next: make(chan *errand, 1)} }

// ask returns the change under way, if it is the one that is asked for, or begins it. Another one that is under way is a
// refusal.
func (s *errands) ask(e *errand) (*errand, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		s.now = e
		s.next <- e
		return e, nil
	}
	if s.now.kind != e.kind {
		return nil, kv.Errorf(kv.Busy, "this node is in the middle of another change of its mode (%s: %s): wait for its end, agent status shows it", s.now.kind, s.now.status("").Step)
	}
	return s.now, nil
}

// end makes room for the next, but for that by which the node has left: there is none, and who asks is told that it is done.
func (s *errands) end(e *errand, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.mu.Lock()
	e.err = err
	e.mu.Unlock()
	if e.kind != api.SwitchLeave || err != nil {
		s.now = nil
	}
	close(e.done)
}

// resume goes on with a change of an earlier run. It is called before any other.
func (s *errands) resume(e *errand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = e
	s.next <- e
}

// current is the change under way, nil for none.
func (s *errands) current() *errand {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func newErrand(kind string, since time.Time) *errand {
	return &errand{kind: kind, since: since.UTC().Truncate(time.Second), began: time.Now(), done: make(chan struct{}), heard: make(chan struct{}), step: "about to begin"}
}

// say notes what is being done.
func (e *errand) say(step string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.log != nil && step != e.step {
		e.log.Info("step of the change of mode", "step", step)
	}
	e.step, e.trouble = step, nil
}

// logTo has the steps from here on logged.
func (e *errand) logTo(log *slog.Logger) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.log = log
}

// worry notes why a step does not get on. It reports whether that is news.
func (e *errand) worry(err error) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	news := e.trouble == nil || e.trouble.Error() != err.Error()
	e.trouble = err
	return news
}

func (e *errand) status(node string) api.SwitchStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := api.SwitchStatus{Kind: e.kind, NodeID: node, Step: e.step, Since: e.since, Done: isClosed(e.done)}
	if e.trouble != nil {
		s.Trouble = e.trouble.Error()
	}
	return s
}

// refusal is why a change that has ended was refused, nil if it was not.
func (e *errand) refusal() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// switcher shows the changes of mode of this node to the servers.
type switcher struct{ a *Agent }

var _ api.Switcher = switcher{}

// Switch begins a change or waits for the one under way.
func (s switcher) Switch(ctx context.Context, r api.SwitchRequest) (api.SwitchStatus, error) {
	a := s.a
	if !a.isMe(r.Node) {
		return a.command(ctx, r)
	}
	if err := refuseMember(r); err != nil {
		return api.SwitchStatus{}, err
	}
	e := newErrand(r.Kind, a.opts.Now())
	e.token, e.force = r.Token, r.Force
	e, err := a.errands.ask(e)
	if err != nil {
		return api.SwitchStatus{}, err
	}
	select {
	case <-e.done:
		e.once.Do(func() { close(e.heard) })
	case <-a.done:
	case <-ctx.Done():
	}
	return e.status(a.planned().node.String()), e.refusal()
}

// isMe reports whether a node is named that is this one.
func (a *Agent) isMe(name string) bool {
	return name == api.SwitchSelf || name == a.planned().node.String() || strings.EqualFold(name, a.cfg.Name)
}
