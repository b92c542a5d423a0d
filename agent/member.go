package agent

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"holdfast/api"
	"holdfast/config"
	"holdfast/enroll"
	"holdfast/kv"
	"holdfast/member"
	"holdfast/member/raftnet"
)

// A member is a Backend, and serves its operator.
var (
	_ api.Backend = (*member.Member)(nil)
	_ api.Admin   = (*member.Member)(nil)
)

const (
	// leaderWait is how long Ready waits for a leader: without one the node still serves local reads, and says so.
	leaderWait = 5 * time.Second

	// replayLook is how often a node that knows its leader is asked whether it has caught up, after leaderWait.
	replayLook = 100 * time.Millisecond
)

// openMember opens the replica in the data dir, with what a member needs to work with others.
func (a *Agent) openMember(ctx context.Context) (*act, error) {
	cfg := a.memberConfig()
	peers, err := a.reachMembers(&cfg)
	if err != nil {
		return nil, err
	}
	m, err := member.Open(cfg)
	if err != nil {
		return nil, openError(err)
	}
	if err := a.planned().complete(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	ca, err := a.certify(m)
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return &act{
		mode:    config.ModeMember,
		node:    a.memberNode(m),
		member:  m,
		auth:    ca,
		reach:   func(ctx context.Context, h kv.Header) error { return reachMember(ctx, m, h) },
		admit:   func() { a.letIn(m, ca) },
		run:     func(ctx context.Context) error { return a.runMember(ctx, m, peers, ca) },
		discard: m.Close,
	}, nil
}

// runMember runs a member until ctx ends. Other nodes are turned away first.
func (a *Agent) runMember(ctx context.Context, m *member.Member, peers *addressBook, ca *enroll.Authority) error {
	ctx, over := context.WithCancel(ctx)
	alone, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var leaving sync.WaitGroup
	leaving.Go(func() {
		<-ctx.Done()
		a.letOut()
		stop()
	})
	leaving.Go(func() {
		select {
		case <-m.Ready():
			a.settle(ctx, false)
		case <-ctx.Done():
		}
	})
	leaving.Go(func() { a.findOthers(alone, m, peers) })
	leaving.Go(func() { tellPolicies(ctx, m, ca) })
	leaving.Go(func() { a.raiseFeature(ctx, m) })
	leaving.Go(func() { a.sweep(ctx, m) })
	err := runWithPeers(alone, m, peers, ca.Run)
	stop()
	over() // it may have ended by itself
	leaving.Wait()
	if errors.Is(err, member.ErrRemoved) || errors.Is(err, member.ErrLogLost) || errors.Is(err, raftnet.ErrCopied) {
		return &exitError{ExitConfig, err}
	}
	return err
}

// reachMember waits until a member has applied a revision.
func reachMember(ctx context.Context, m *member.Member, h kv.Header) error {
	wait := reachMax
	if deadline, ok := ctx.Deadline(); ok {
		wait = time.Until(deadline)
	}
	_, err := m.Read(ctx, kv.Query{MaxAge: kv.Unlimited, LocalOnly: true, MinRevision: h.Revision, Wait: wait})
	return err
}

// reachMax bounds the wait for a revision that names no bound.
const reachMax = 5 * time.Second

func (a *Agent) memberConfig() member.Config {
	reserve := int64(a.cfg.Store.DiskReserve)
	if reserve == member.DefaultDiskReserve {
		reserve = 0 // the default yields to a small disk, a setting does not
	}
	return member.Config{
		Dir:          a.dir.join(memberName),
		NodeID:       a.planned().node.uuid(),
		Name:         a.cfg.Name,
		Addresses:    a.peerAddresses(),
		ClientURLs:   a.clientURLs(),
		Voters:       a.cfg.Cluster.Voters,
		ReplaceAfter: a.cfg.Cluster.ReplaceAfter,
		Version:      a.opts.Version,
		Answer:       a.answerMember,
		Log:          a.opts.Log,
		Metrics:      a.opts.Metrics,
		History:      a.cfg.Store.History,
		FlushEvery:   a.cfg.Store.Flush,
		DiskReserve:  reserve,
		Quota:        int64(a.cfg.Store.Quota),
		RequestBytes: int(a.cfg.Limits.Request),
	}
}

// openWhenServing opens the gate to front once the node has caught up, or once it had no leader for leaderWait: then nobody can
// tell it how much there is to catch up with.
func (a *Agent) openWhenServing(ctx context.Context, n *node, front api.Backend) {
	timer := time.NewTimer(leaderWait)
	defer timer.Stop()
	for {
		select {
		case <-n.caughtUp:
		case <-ctx.Done():
			return
		case <-timer.C:
			var s api.Status
			if n.describe(&s); s.Member != nil && s.Member.Leader != "" {
				timer.Reset(replayLook)
				continue
			}
		}
		a.gate.open(front)
		close(a.ready)
		return
	}
}

// memberNode shows a member to the rest of the agent.
func (a *Agent) memberNode(m *member.Member) *node {
	admin, _ := any(m).(api.Admin)
	return &node{
		backend:  a.tracer.Backend("raft", m),
		admin:    admin,
		caughtUp: m.Ready(),
		alive:    vital{m.Alive, &loop{name: "the loop that applies log entries", work: m.Applying}, m.WaitsForDisk}.check,
		describe: func(s *api.Status) { describeMember(s, m.Status()) },
		policy:   m.PolicySource(),
	}
}

func describeMember(s *api.Status, m member.Status) {
	if !m.Epoch.IsZero() {
		s.Epoch = m.Epoch.String()
	}
	s.Revision = m.Revision
	s.Member = &api.MemberStatus{
		ClusterID:       fmt.Sprintf("%016x", m.ClusterID),
		ReplicaID:       strconv.FormatUint(m.ReplicaID, 10),
		Term:            m.Term,
		Applied:         m.Applied,
		Durable:         m.Durable,
		CompactRevision: m.CompactRevision,
		StateBytes:      m.StateBytes,
		LogBytes:        m.LogBytes,
		OverlayBytes:    m.OverlayBytes,
		DiskFreeBytes:   m.DiskFreeBytes,
		WritesRefused:   m.WritesRefused,
		LogHeldSeconds:  m.LogHeld.Seconds(),
	}
	if m.Leader != 0 {
		s.Member.Leader = strconv.FormatUint(m.Leader, 10)
	}
}

// openError gives the reason why a store does not open its exit code.
func openError(err error) error {
	switch kv.CodeOf(err) {
	case kv.Corrupt, kv.Invalid, kv.Unsupported:
		return &exitError{ExitConfig, err}
	case kv.Busy, kv.NoSpace:
		return &exitError{ExitTemporary, err}
	}
	return storageError(err)
}
