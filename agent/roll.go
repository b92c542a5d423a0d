package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"holdfast/api/uplink"
	"holdfast/enroll"
	"holdfast/internal/bridge"
	"holdfast/internal/wire"
	"holdfast/member"
)

// roll is a member's list of who is connected, here and at the other members.
type roll struct {
	*enroll.Roll
	member *member.Member
	auth   *enroll.Authority
}

// openRoll begins the list. It is there before the first node is let in.
func (a *Agent) openRoll(m *member.Member, auth *enroll.Authority) {
	r := &roll{member: m, auth: auth}
	r.Roll = enroll.NewRoll(enroll.RollOptions{
		News: func() (enroll.News, <-chan struct{}) {
			changed := auth.News() // before what it is about
			trust := auth.Trust().Trust()
			n := enroll.News{Now: auth.Time(), Revoked: auth.RevokedMembers(), Policy: m.Policy().Text(), Members: memberAddresses(m.Roster())}
			if len(trust.Roots) > 0 {
				n.Trust = &trust
			}
			return n, changed
		},
		Elsewhere: r.elsewhere,
		List:      a.listParts,
		Now:       a.opts.Now,
		Log:       a.opts.Log,
	})
	a.roll.Store(r)
}

// attend begins to serve the control stream of a node that is connected here.
func (a *Agent) attend(ctx context.Context, conn uplink.Conn, peer uplink.Peer, in *wire.Patient, out io.Writer) (listen func() error, err error) {
	r := a.roll.Load()
	c, ok := conn.(bridge.Accepted)
	if r == nil || !ok {
		return nil, errors.New("this node keeps no list of nodes")
	}
	return r.Attend(ctx, peer.Node, bridge.NodeLink(c), in, out)
}

// question is what members ask each other about nodes, and rollReply what they answer.
type question struct {
	Alive *aliveQuestion `json:"alive,omitempty"`
	Roll  *rollQuestion  `json:"roll,omitempty"`
	Order *orderQuestion `json:"order,omitempty"`

	Devices bool `json:"devices,omitempty"` // when was each token of a device seen last?
}

type aliveQuestion struct {
	Node string `json:"node"`
	Boot string `json:"boot"`
}

type rollQuestion struct {
	After string `json:"after"` // node id behind which the answer begins
}

// orderQuestion is an order to the node that is asked, or to one that is connected to it.
type orderQuestion struct {
	Node  string       `json:"node"`
	Order enroll.Order `json:"order"`
}

type rollReply struct {
	Found   bool          `json:"found,omitempty"`
	Address string        `json:"address,omitempty"`
	Self    enroll.Report `json:"self,omitzero"`
	Seen    []enroll.Seen `json:"seen,omitempty"`
	More    bool          `json:"more,omitempty"`

	Progress *enroll.Progress `json:"progress,omitempty"` // nil: the node of the order is not here

	Devices enroll.LastSeen `json:"devices,omitempty"`
}

// The bounds of what members ask each other.
const (
	// rollPage keeps an answer below member.AskMax: an entry has about 500 bytes, 2000 at most.
	rollPage = 400
	// askWait is for one question: who is asked may wait for a node in turn.
	askWait = 5 * time.Second
)

// answerMember answers another member's question about nodes.
func (a *Agent) answerMember(ctx context.Context, request []byte) []byte {
	var q question
	var out rollReply
	r := a.roll.Load()
	if err := json.Unmarshal(request, &q); err != nil || r == nil {
		return nil
	}
	switch {
	case q.Alive != nil:
		out.Address, out.Found = r.Alive(ctx, q.Alive.Node, q.Alive.Boot)
	case q.Order != nil:
		out.Progress = a.takeOrder(ctx, r, *q.Order)
	case q.Devices:
		out.Devices = a.devicesSeen(ctx, r)
	case q.Roll != nil:
		out.Self = a.selfReport()
		for _, s := range r.Call(ctx) {
			if s.Node <= q.Roll.After {
				continue
			}
			if len(out.Seen) == rollPage {
				out.More = true
				break
			}
			out.Seen = append(out.Seen, s)
		}
	}
	b, err := json.Marshal(out)
	if err != nil {
		return nil
	}
	return b
}

// ask puts a question to one other member.
func (r *roll) ask(ctx context.Context, replica uint64, q question) (out rollReply, err error) {
	b, err := json.Marshal(q)
	if err != nil {
		return out, err
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	if b, err = r.member.Ask(ctx, replica, b); err != nil {
		return out, err
	}
	err = json.Unmarshal(b, &out)
	return out, err
}

// others calls f for every other member, all at once, and waits.
func (r *roll) others(f func(member.Seat)) {
	self := r.member.Status().ReplicaID
	var wg sync.WaitGroup
	for _, s := range r.member.Roster().Seats {
		if s.Replica != self {
			wg.Go(func() { f(s) })
		}
	}
	wg.Wait()
}

// elsewhere asks the other members for a node that started with another boot.
func (r *roll) elsewhere(ctx context.Context, node, boot string) (address string, found bool) {
	var mu sync.Mutex
	r.others(func(s member.Seat) {
		got, err := r.ask(ctx, s.Replica, question{Alive: &aliveQuestion{node, boot}})
		mu.Lock()
		defer mu.Unlock()
		if err == nil && got.Found {
			address, found = got.Address, true
		}
	})
	return address, found
}

// sighting is a node as one of the members has seen it.
type sighting struct {
	enroll.Seen
	via string // name of the member
}

// gather calls the roll at every member. It returns who was seen by whom, newest sight only, the members' reports of
// themselves by node id, and what went wrong.
func (r *roll) gather(ctx context.Context, self enroll.Report) (seen map[string]sighting, members map[string]enroll.Report, errs []error) {
	var mu sync.Mutex
	seen, members = map[string]sighting{}, map[string]enroll.Report{}
	note := func(via string, all []enroll.Seen) {
		for _, s := range all {
			if was, ok := seen[s.Node]; !ok || s.Connected && !was.Connected || s.Connected == was.Connected && s.At.After(was.At) {
				seen[s.Node] = sighting{s, via}
			}
		}
	}
	node := bridge.TransportNode(r.member.NodeID())
	members[node] = self
	var calling sync.WaitGroup
	var here []enroll.Seen
	calling.Go(func() { here = r.Call(ctx) })
	r.others(func(s member.Seat) {
		for after := ""; ; {
			got, err := r.ask(ctx, s.Replica, question{Roll: &rollQuestion{after}})
			mu.Lock()
			if err != nil {
				errs = append(errs, err)
				mu.Unlock()
				return
			}
			members[bridge.TransportNode(s.Node)] = got.Self
			note(s.Name, got.Seen)
			mu.Unlock()
			if !got.More || len(got.Seen) == 0 {
				return
			}
			after = got.Seen[len(got.Seen)-1].Node
		}
	})
	calling.Wait()
	note(self.Name, here)
	return seen, members, errs
}

// dismissWait is how long a node that is to be shut out is given to leave the members first: as long as it answers, its vote
// helps to do without it. Whoever revokes it waits, and the node may do harm meanwhile.
const dismissWait = 3 * time.Second

// dismiss takes a node that is to be shut out off the members, if it is one and that leaves a quorum. What it returns says
// how that ended, to somebody who reads on from another sentence; nothing if there was nothing to do.
func (r *roll) dismiss(ctx context.Context, name, self string) string {
	records, err := enroll.Nodes(ctx, r.member)
	if err != nil {
		return ""
	}
	rec, err := enroll.Find(records, name)
	if err != nil || rec.ID == self {
		return "" // Revoke says so
	}
	seat := seatOf(r.member, rec.ID)
	if seat == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, dismissWait)
	defer cancel()
	switch gone, err := r.member.Dismiss(ctx, seat.Replica); {
	case err != nil:
		return fmt.Sprintf("; it stays on the list of members, because %v: take it off with agent members remove %d when that is possible", err, seat.Replica)
	case !gone:
		return "; it is taken off the list of members as soon as those that answer are a quorum without it: see agent members ls"
	}
	return "; it is off the list of members"
}
