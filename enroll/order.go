package enroll

import (
	"context"
	"time"

	"holdfast/kv"
)

// Order is a change of its mode that a member asks a node for, as an operator has asked that member. Who takes it makes sure
// that it comes from a member.
type Order struct {
	ID    string `json:"id"` // random; an order that comes again asks how it stands
	Kind  string `json:"kind"`
	Token string `json:"token,omitempty"` // to be promoted with
}

// Progress is how an order stands.
type Progress struct {
	Step    string    `json:"step"`
	Trouble string    `json:"trouble,omitempty"`
	Since   time.Time `json:"since"`
	Done    bool      `json:"done"`
	Error   string    `json:"error,omitempty"` // why it was refused; it is over then
	Code    kv.Code   `json:"code,omitempty"`
}

// Order passes an order on to a node that is connected here, and returns how it stands. Connected is false if none is, or it
// does not answer within reportWait.
func (r *Roll) Order(ctx context.Context, node string, o Order) (p Progress, connected bool) {
	r.mu.Lock()
	s := r.sessions[node]
	r.mu.Unlock()
	if s == nil || s.link.Lost() {
		return p, false
	}
	ctx, cancel := context.WithTimeout(ctx, reportWait)
	defer cancel()
	rep, came := s.ask(ctx, News{Order: &o})
	switch {
	case !came:
		return p, false
	case rep.Progress == nil:
		return Progress{Error: "node " + node + " is of a version that takes no orders: run the command on that machine", Code: kv.Unsupported}, true
	}
	return *rep.Progress, true
}
