package agent

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"holdfast/api"
	"holdfast/api/uplink"
	"holdfast/config"
	"holdfast/enroll"
	"holdfast/internal/bridge"
	"holdfast/kv"
	"holdfast/member"
	"holdfast/transport"
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
func (a *Agent) attend(ctx context.Context, conn uplink.Conn, peer uplink.Peer, in *bufio.Reader, out io.Writer) (listen func() error, err error) {
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

// raftLinks are the connections to other members, by node.
func (a *Agent) raftLinks() map[string]transport.Health {
	links := map[string]transport.Health{}
	for _, h := range a.net.ep.Health() {
		if h.Protocol == transport.Raft {
			links[h.Node] = h
		}
	}
	return links
}

// nodes shows the nodes of the cluster to the servers.
type nodes struct{ a *Agent }

var _ api.Nodes = nodes{}

func (n nodes) roll() (*roll, error) {
	if r := n.a.roll.Load(); r != nil {
		return r, nil
	}
	return nil, kv.Errorf(kv.Unsupported, "the list of nodes is kept on members; this node is a proxy, or its store is not open yet")
}

// listPage is how many nodes go together to a proxy that asks for them.
const listPage = 100

// listParts is the list of nodes in parts, for a proxy.
func (a *Agent) listParts(ctx context.Context) (parts []json.RawMessage, err error) {
	all, err := nodes{a}.List(ctx)
	if err != nil {
		return nil, err
	}
	for first := true; first || len(all.Nodes) > 0; first = false {
		part := api.NodeList{Nodes: all.Nodes[:min(len(all.Nodes), listPage)]}
		all.Nodes = all.Nodes[len(part.Nodes):]
		if first {
			part.Missing = all.Missing
		}
		b, err := json.Marshal(part)
		if err != nil {
			return nil, err
		}
		parts = append(parts, b)
	}
	return parts, nil
}

// askAbove is the list of nodes as the member has it that this proxy's uplink leads to.
func (a *Agent) askAbove(ctx context.Context) (out api.NodeList, err error) {
	c := a.net.above.Load()
	if c == nil || c.Err() != nil {
		return out, kv.Errorf(kv.UpstreamUnavailable, "the list of nodes is kept on members, and this proxy is connected to none: run the command on a member")
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	var parts []json.RawMessage
	err = bridge.Follow(ctx, c, func(in *bufio.Reader, w io.Writer) error {
		parts, err = enroll.AskList(in, w, a.net.boot, a.selfReport())
		return err
	})
	if err != nil {
		if kv.CodeOf(err) != kv.Internal {
			return out, err
		}
		return out, kv.Errorf(kv.UpstreamUnavailable, "ask the member above for the list of nodes: %w", err)
	}
	for _, b := range parts {
		var part api.NodeList
		if err := json.Unmarshal(b, &part); err != nil {
			return out, kv.Errorf(kv.Internal, "read the list of nodes: %w", err)
		}
		out.Nodes = append(out.Nodes, part.Nodes...)
		out.Missing = append(out.Missing, part.Missing...)
	}
	self := a.net.identity.Load().Node()
	for i, n := range out.Nodes {
		switch {
		case n.ID == self:
			out.Nodes[i].State = api.NodeHere
		case n.State == api.NodeHere:
			out.Nodes[i].State = api.NodeConnected
		}
	}
	return out, nil
}

// List lists the nodes. A proxy asks the member that its uplink leads to.
func (n nodes) List(ctx context.Context) (api.NodeList, error) {
	r, err := n.roll()
	if err != nil {
		if node := n.a.node.Load(); node != nil && n.a.planned().record.Mode == config.ModeProxy {
			return n.a.askAbove(ctx)
		}
		return api.NodeList{}, err
	}
	records, err := enroll.Nodes(ctx, r.member)
	var out api.NodeList
	if err != nil { // without a quorum what this replica has is better than nothing
		out.Missing = append(out.Missing, "the records are those of this replica: "+err.Error())
		if records, err = enroll.LocalNodes(ctx, r.member); err != nil {
			return out, err
		}
	}
	revoked, err := enroll.LocalRevocations(ctx, r.member)
	if err != nil {
		return out, err
	}
	seen, members, errs := r.gather(ctx, n.a.selfReport())
	for _, err := range errs {
		out.Missing = append(out.Missing, err.Error())
	}
	self := n.a.net.identity.Load().Node()
	links := n.a.raftLinks()
	for _, rec := range records {
		i := describeNode(rec)
		report, isMember := members[rec.ID]
		sight, wasSeen := seen[rec.ID]
		switch {
		case rec.ID == self:
			i.State = api.NodeHere
			i.report(report)
		case isMember:
			i.State = api.NodeConnected
			i.report(report)
			i.link(links[rec.ID])
		case wasSeen:
			i.sighted(sight)
		default:
			i.link(links[rec.ID])
		}
		out.Nodes = append(out.Nodes, i.NodeInfo)
	}
	lag(out.Nodes)
	for _, v := range revoked {
		out.Nodes = append(out.Nodes, api.NodeInfo{ID: v.ID, Name: v.Name, Role: string(v.Role), State: api.NodeRevoked, Revoked: timeOf(v.At)})
	}
	slices.SortFunc(out.Nodes, func(x, y api.NodeInfo) int { return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.ID, y.ID)) })
	return out, nil
}

// nodeInfo is an entry of the list that is being filled in.
type nodeInfo struct{ api.NodeInfo }

func describeNode(r enroll.NodeRecord) nodeInfo {
	return nodeInfo{api.NodeInfo{ID: r.ID, Name: r.Name, Role: string(r.Role), State: api.NodeAway, Scope: r.Scope, Joined: timeOf(r.Joined),
		CertificateSince: timeOf(r.Issued), CertificateUntil: timeOf(r.Until), CA: r.CA}}
}

func (i *nodeInfo) report(r enroll.Report) {
	i.Version, i.Revision, i.AgeSeconds, i.QueueBytes = r.Version, r.Revision, r.AgeSeconds, r.QueueBytes
	i.QueueDepth = &r.QueueDepth
	i.KeepAliveSeconds, i.KeepAliveShort = r.KeepAliveSeconds, r.KeepAliveShort
}

func (i *nodeInfo) link(h transport.Health) {
	if h.Node == "" {
		return
	}
	i.Address, i.RTTMillis = h.Addr, float64(h.RTTSmoothed)/float64(time.Millisecond)
	i.Loss, i.Way, i.BytesSent, i.BytesReceived = &h.Loss, string(h.Way), h.BytesSent, h.BytesReceived
	if i.State = api.NodeConnected; h.Lost {
		i.State = api.NodeLost
	}
}

func (i *nodeInfo) sighted(s sighting) {
	i.report(s.Report)
	i.Via, i.Address, i.RTTMillis, i.LastSeen = s.via, s.Address, s.RTTMillis, timeOf(s.At)
	if s.Connected {
		i.Loss, i.Way, i.BytesSent, i.BytesReceived = &s.Loss, s.Way, s.Sent, s.Received
	}
	switch {
	case s.Connected && s.Lost:
		i.State = api.NodeLost
	case s.Connected:
		i.State = api.NodeConnected
	}
}

// lag says of each node that reports how far it is behind the newest of them.
func lag(all []api.NodeInfo) {
	var newest int64
	for _, i := range all {
		newest = max(newest, i.Revision)
	}
	for k := range all {
		if live := all[k].State == api.NodeHere || all[k].State == api.NodeConnected; live && all[k].Version != "" {
			behind := newest - all[k].Revision
			all[k].Lag = &behind
		}
	}
}

// Revoke shuts a node out.
func (n nodes) Revoke(ctx context.Context, name string) (api.RevokedNode, error) {
	r, err := n.roll()
	if err != nil {
		return api.RevokedNode{}, err
	}
	note := r.dismiss(ctx, name, n.a.net.identity.Load().Node())
	v, err := r.auth.Revoke(ctx, name)
	if err != nil {
		return api.RevokedNode{}, err
	}
	out := api.RevokedNode{ID: v.ID, Name: v.Name, Role: string(v.Role), At: v.At}
	if v.Role == transport.Member {
		out.Note = "it was a member and held the key of the cluster's CA and all data: replace the CA (agent cert rotate)" + note
	}
	return out, nil
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
