package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"holdfast/config"
	"holdfast/enroll"
	"holdfast/internal/failpoint"
	"holdfast/member"
	"holdfast/transport"
)

// askedIn has the cluster say what a node becomes whose data dir is empty. It makes nothing before there is an answer, and
// then brings the dir to where that can be opened.
func (a *Agent) askedIn(ctx context.Context) error {
	p, ends, err := a.askCluster(ctx)
	if err != nil {
		return err
	}
	if err := p.make(); err != nil {
		return err
	}
	a.plan.Store(p)
	a.opts.Log.Info("mode decided", "mode", string(p.record.Mode), "because", p.record.Reason)
	if p.record.Mode == config.ModeMember {
		a.serveUplinks()
		return nil
	}
	if len(ends) > 0 {
		a.keepEndpoints(ends)
	}
	return a.dir.step(failpoint.ProxyEndpoints)
}

// askCluster asks until there is an answer, and decides by it. It returns the plan, with nothing made yet, and where
// members answer.
func (a *Agent) askCluster(ctx context.Context) (*plan, []string, error) {
	s, err := a.dir.observe(a.cfg)
	if err != nil {
		return nil, nil, err
	}
	wish := enroll.Wish{Role: transport.Member, Fallback: s.mayBeProxy(), Addresses: a.peerAddresses(), ClientURLs: a.clientURLs()}
	const meanwhile = "nothing is made meanwhile, and nothing served"
	var got enroll.Joined
	if s.lostMember() {
		a.opts.Log.Warn("the data of this member is gone; it asks the others to take it in again, under another replica id", "missing", a.dir.join(memberName))
		if err := a.loadRevoked(); err != nil { // whom to believe, until there are records
			return nil, nil, err
		}
		got, err = a.askForSeat(ctx, wish, "", meanwhile, func(error) {})
	} else {
		var t enroll.Token
		if t, err = a.token(); err != nil {
			return nil, nil, err
		}
		got, err = a.join(ctx, t, wish, meanwhile, func(error) {})
	}
	switch {
	case errors.Is(err, enroll.ErrFull):
		s.answer = clusterFull
	case err != nil:
		return nil, nil, err
	case got.Identity.Info().Role == transport.Member:
		s.answer = voterWanted
	default:
		s.answer = clusterFull
	}
	p, err := answered(a.dir, s, got.Admission, a.opts.Now())
	return p, got.Endpoints, err
}

// answered decides with the answer of the cluster. It makes nothing.
func answered(d *dataDir, s situation, admission json.RawMessage, now time.Time) (*plan, error) {
	decided, err := decide(s)
	if err != nil {
		return nil, err
	}
	return &plan{dir: d, do: decided.do, admission: admission, record: record{
		Mode: decided.mode, Wanted: s.wanted, Reason: decided.reason, Since: now.UTC().Truncate(time.Second),
	}}, nil
}

// admitter lets a member decide who becomes a member.
func admitter(m *member.Member) func(context.Context, enroll.Applicant) (json.RawMessage, error) {
	return func(ctx context.Context, q enroll.Applicant) (json.RawMessage, error) {
		adm, err := m.Admit(ctx, member.Applicant{Node: memberNodeID(q.Node), Name: q.Name, Addresses: q.Addresses, ClientURLs: q.ClientURLs})
		switch {
		case errors.Is(err, member.ErrFull):
			return nil, enroll.ErrFull
		case err != nil:
			return nil, err
		}
		b, err := json.Marshal(adm)
		if err != nil {
			return nil, fmt.Errorf("encode an admission: %w", err)
		}
		return b, nil
	}
}
