package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"

	"holdfast/client"
	"holdfast/enroll"
	"holdfast/internal/bridge"
	"holdfast/kv"
	"holdfast/transport"
)

// This file is what a node hears from the member that its uplink leads to.

// revokedFile, in the folder of the identity, has the ids of members that were revoked. It is written when there is one
// more.
const revokedFile = "revoked.json"

// dialUplink opens an uplink, and its control stream beside it.
func (a *Agent) dialUplink(ctx context.Context, endpoint string, early func(client.Conn)) (client.Conn, error) {
	c, err := bridge.Dial(a.net.ep)(ctx, endpoint, early)
	if err != nil {
		return nil, err
	}
	if d, ok := c.(bridge.Dialed); ok {
		a.net.following.Go(func() { a.follow(d.Conn) })
	}
	return c, nil
}

// follow speaks on the control stream of a connection until that ends.
func (a *Agent) follow(c *transport.Conn) {
	if c.Peer().Role == transport.Proxy {
		a.followThrough(c)
		return
	}
	a.net.above.Store(c)
	err := bridge.Follow(c.Context(), c, func(in *bufio.Reader, out io.Writer) error {
		return enroll.Follow(in, out, a.net.boot, a.report, func(n enroll.News) { a.heardFrom(c, n) }, func(o enroll.Order) enroll.Progress {
			if c.Peer().Role != transport.Member {
				return enroll.Progress{Error: "only a member may ask for a change of mode", Code: kv.PermissionDenied}
			}
			return a.obey(o)
		})
	})
	switch {
	case errors.Is(err, enroll.ErrCopied):
		a.opts.Log.Error("the cluster has sent this node away", "member", c.Peer().Node, "err", err)
		c.CloseWithError(transport.CodeNotAllowed, "this node is a copy")
	case c.Err() == nil:
		a.opts.Log.Debug("no control stream; the member may be of an older version", "member", c.Peer().Node, "err", err)
	}
}

// selfReport is what this node tells of itself.
func (a *Agent) selfReport() enroll.Report {
	s := a.Report()
	r := enroll.Report{Name: s.Name, Version: s.Version, Mode: s.Mode, Revision: s.Revision, Feature: kv.FeatureNewest}
	if s.Proxy != nil {
		r.AgeSeconds = s.Proxy.AgeSeconds
	}
	if s.Queue != nil {
		r.QueueDepth, r.QueueBytes = s.Queue.Depth, s.Queue.Bytes
	}
	if k := s.KeepAlive; k != nil && k.Found != nil {
		r.KeepAliveSeconds, r.KeepAliveShort = k.EverySeconds, k.Short
	}
	return r
}

// report is what a member has asked this node for.
func (a *Agent) report(asked enroll.News) enroll.Report {
	r := a.selfReport()
	if asked.Devices {
		r.Devices = enroll.NewLastSeen(a.lastSeen())
	}
	return r
}

// heardFrom takes in what the member at the other end of an uplink tells: also of itself, and where others are.
func (a *Agent) heardFrom(c *transport.Conn, n enroll.News) {
	up := a.net.up.Load()
	if up != nil && n.Leaving {
		up.Leave(bridge.Dialed{Conn: c})
	}
	if up != nil && len(n.Members) > 0 {
		a.learn(up, n.Members)
	}
	a.heard(n)
}

// heard takes in what a member tells.
func (a *Agent) heard(n enroll.News) {
	if n.Leaving { // it says nothing else
		return
	}
	a.net.told(n.Now)
	if m := a.mirror.Load(); m != nil {
		m.Heard(n.Policy)
	}
	if n.Trust == nil {
		return
	}
	slices.Sort(n.Revoked)
	if err := a.takeRevoked(n.Revoked); err != nil {
		a.opts.Log.Error("the list of revoked members is in force and not remembered", "file", revokedFile, "err", err)
	}
	id := a.net.identity.Load()
	if !id.Trust().Equal(*n.Trust) {
		next, err := id.WithTrust(*n.Trust)
		if err == nil {
			err = a.become(next.WithTimes(id.Issued(), n.Now))
		}
		if err != nil {
			a.opts.Log.Error("the cluster's CAs are not taken over", "err", err)
			return
		}
		a.opts.Log.Info("CAs taken over", "cas", len(n.Trust.Roots))
		a.net.look(false)
	}
	a.net.ep.Recheck()
}

// takeRevoked shuts out members that were revoked, and remembers them.
func (a *Agent) takeRevoked(ids []string) error {
	a.net.revoked.Store(&ids)
	path := a.dir.join(identityName, revokedFile)
	was, err := readRevoked(path)
	if err == nil && slices.Equal(was, ids) {
		return nil
	}
	b, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	return writeFile(path, b)
}

// loadRevoked shuts out the members that were revoked when this node last heard of it.
func (a *Agent) loadRevoked() error {
	ids, err := readRevoked(a.dir.join(identityName, revokedFile))
	if err != nil {
		return storageError(err)
	}
	a.net.revoked.Store(&ids)
	shut, err := readRevoked(a.dir.join(identityName, shutFile))
	if err != nil {
		return storageError(err)
	}
	a.net.shut.Store(&shut)
	return nil
}

func readRevoked(path string) (ids []string, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &ids); err != nil {
		return nil, refusef("%s is damaged: %w: remove it, and the next member that answers tells who was revoked", path, err)
	}
	return ids, nil
}
