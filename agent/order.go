package agent

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"holdfast/api"
	"holdfast/enroll"
	"holdfast/kv"
	"holdfast/member"
	"holdfast/transport"
)

// A change of mode of another node. The member that an operator has asked passes an order to the node, over its control
// stream or, to another member, over raft's connection, again and again: the first begins the change, which the node writes
// down, later ones ask how it stands. A node that becomes something else is reached another way in the middle of it.
// A node that is away is refused: nothing is kept for it, since by the time it is back nobody may want that any more.

const (
	// orderEvery is how often a node is asked how its change stands.
	orderEvery = 200 * time.Millisecond
	// orderFind is how long a node is looked for that has not taken the order yet.
	orderFind = 3 * time.Second
	// orderLost is how long one that has may be out of reach: it goes on without anybody asking, restarts included.
	orderLost = time.Minute
	// ordersMax bounds the orders under way from one member.
	ordersMax = 64
)

// orders are those that this member has given and whose end nobody was told yet, and the newest that this node has taken.
type orders struct {
	mu    sync.Mutex
	given map[string]*order // by node

	taken   string // id of the order
	errand  *errand
	refused error
}

type order struct {
	enroll.Order
	last    api.SwitchStatus
	reached bool
	heard   time.Time // when it was begun, then when the node last answered
}

// obey takes an order of a member. It waits for nothing.
func (a *Agent) obey(o enroll.Order) enroll.Progress {
	s := &a.orders
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken != o.ID {
		s.taken, s.errand, s.refused = o.ID, nil, nil
		if o.Kind != api.SwitchPromote && o.Kind != api.SwitchDemote {
			s.refused = kv.Errorf(kv.Unsupported, "this node does not know the order %q", o.Kind)
		} else if err := refuseMember(api.SwitchRequest{Node: api.SwitchSelf, Kind: o.Kind}); err != nil {
			s.refused = err
		} else {
			e := newErrand(o.Kind, a.opts.Now())
			e.token = o.Token
			s.errand, s.refused = a.errands.ask(e)
			a.opts.Log.Info("an operator asks for a change of mode on another node", "change", o.Kind, "refused", s.refused)
		}
	}
	if s.refused != nil {
		return enroll.Progress{Error: s.refused.Error(), Code: kv.CodeOf(s.refused)}
	}
	st := s.errand.status("")
	p := enroll.Progress{Step: st.Step, Trouble: st.Trouble, Since: st.Since, Done: st.Done}
	if st.Done {
		if err := s.errand.refusal(); err != nil {
			p.Error, p.Code = err.Error(), kv.CodeOf(err)
		}
	}
	return p
}

// command changes the mode of another node, as Switch does.
func (a *Agent) command(ctx context.Context, r api.SwitchRequest) (api.SwitchStatus, error) {
	l := a.roll.Load()
	if l == nil {
		return api.SwitchStatus{}, kv.Errorf(kv.Unsupported, "node %q is not this one, which is %s (%s) and a proxy, or not open yet: run the command on a member, or on that machine",
			r.Node, a.planned().node, a.cfg.Name)
	}
	if r.Kind == api.SwitchLeave {
		return api.SwitchStatus{}, kv.Errorf(kv.Unsupported, "a node leaves on its own machine only: run the command there, or agent nodes revoke if the machine is lost")
	}
	records, err := enroll.Nodes(ctx, l.member)
	if err != nil {
		return api.SwitchStatus{}, err
	}
	rec, err := enroll.Find(records, r.Node)
	if err != nil {
		return api.SwitchStatus{}, err
	}
	if r.Kind == api.SwitchPromote && r.Token == "" && rec.Role == transport.Proxy {
		if err := l.auth.Invite(ctx, rec.ID); err != nil {
			return api.SwitchStatus{}, err
		}
	}
	o, err := a.orders.begin(rec.ID, r)
	if err != nil {
		return api.SwitchStatus{}, err
	}
	for {
		if st, over, err := a.pursue(ctx, l, o, rec); over {
			a.orders.end(rec.ID, o)
			return st, err
		}
		select {
		case <-time.After(orderEvery):
		case <-a.done:
			return api.SwitchStatus{}, stopping()
		case <-ctx.Done():
			return a.orders.standing(o), nil
		}
	}
}

// begin returns the order to a node that is under way, or makes it.
func (s *orders) begin(node string, r api.SwitchRequest) (*order, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, o := range s.given { // that nobody asks for any more
		if time.Since(o.heard) > orderLost {
			delete(s.given, id)
		}
	}
	if o := s.given[node]; o != nil {
		if o.Kind != r.Kind {
			return nil, kv.Errorf(kv.Busy, "node %s is asked for another change of its mode (%s): wait for its end", node, o.Kind)
		}
		return o, nil
	}
	if len(s.given) >= ordersMax {
		return nil, kv.Errorf(kv.Busy, "%d nodes are changing their mode, as many as may at once: wait until one has", ordersMax)
	}
	o := &order{Order: enroll.Order{ID: rand.Text(), Kind: r.Kind, Token: r.Token}, heard: time.Now()}
	o.last = api.SwitchStatus{Kind: r.Kind, NodeID: node, Step: "looking for the node"}
	if s.given == nil {
		s.given = make(map[string]*order)
	}
	s.given[node] = o
	return o, nil
}

func (s *orders) end(node string, o *order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.given[node] == o {
		delete(s.given, node)
	}
}

func (s *orders) standing(o *order) api.SwitchStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return o.last
}

// pursue passes an order on once. Over: there is nothing more to hear.
func (a *Agent) pursue(ctx context.Context, l *roll, o *order, to enroll.NodeRecord) (st api.SwitchStatus, over bool, err error) {
	p, reached := l.order(ctx, to.ID, o.Order)
	a.orders.mu.Lock()
	defer a.orders.mu.Unlock()
	switch {
	case reached:
		o.reached, o.heard = true, time.Now()
		o.last.Step, o.last.Trouble, o.last.Since, o.last.Done = p.Step, p.Trouble, p.Since, p.Done
		if p.Error != "" {
			return o.last, true, &kv.Error{Code: p.Code, Detail: "node " + to.Name + ": " + p.Error}
		}
		return o.last, p.Done, nil
	case ctx.Err() != nil:
		return o.last, false, nil
	case !o.reached && time.Since(o.heard) > orderFind:
		return o.last, true, kv.Errorf(kv.UpstreamUnavailable, "node %s (%s) is connected to no member, and nothing was asked of it: when it is back run this again, or run agent %s on that machine (also stopped, with --data-dir); see agent nodes ls",
			to.Name, to.ID, o.Kind)
	case o.reached && time.Since(o.heard) > orderLost:
		return o.last, true, kv.Errorf(kv.OutcomeUnknown, "node %s (%s) has begun with it (%s) and was not heard of for %s; it goes on with it once it can: see agent nodes ls",
			to.Name, to.ID, o.last.Step, orderLost)
	}
	return o.last, false, nil
}

// order passes an order to a node, wherever it is connected. It reports whether the node has answered.
func (r *roll) order(ctx context.Context, node string, o enroll.Order) (p enroll.Progress, reached bool) {
	if p, reached = r.Order(ctx, node, o); reached {
		return p, true
	}
	q := question{Order: &orderQuestion{Node: node, Order: o}}
	if s := seatOf(r.member, node); s != nil {
		if got, err := r.ask(ctx, s.Replica, q); err == nil && got.Progress != nil {
			return *got.Progress, true
		}
	}
	var mu sync.Mutex
	r.others(func(s member.Seat) {
		got, err := r.ask(ctx, s.Replica, q)
		mu.Lock()
		defer mu.Unlock()
		if err == nil && got.Progress != nil {
			p, reached = *got.Progress, true
		}
	})
	return p, reached
}

// takeOrder answers a member that passes an order on, to this node or to one that is connected here.
func (a *Agent) takeOrder(ctx context.Context, l *roll, q orderQuestion) *enroll.Progress {
	if strings.EqualFold(q.Node, a.net.identity.Load().Node()) {
		p := a.obey(q.Order)
		return &p
	}
	if p, reached := l.Order(ctx, q.Node, q.Order); reached {
		return &p
	}
	return nil
}
