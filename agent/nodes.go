package agent

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"slices"
	"time"

	"holdfast/api"
	"holdfast/config"
	"holdfast/enroll"
	"holdfast/internal/bridge"
	"holdfast/kv"
	"holdfast/transport"
)

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
