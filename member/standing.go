package member

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// A member asks another how it stands by a query for the roster. The answer has the record as applied there, and the log
// index applied in Count.

var standingRequest = wire.AppendQuery(nil, rosterQuery())

func rosterQuery() kv.Query {
	return kv.Query{LocalOnly: true, Ops: []kv.Op{kv.Records{Prefix: []byte(rosterRecord)}}}
}

func isStanding(request []byte) bool { return string(request) == string(standingRequest) }

func (m *Member) answerStanding() []byte {
	applied := m.store.Applied() // before the record, which is then at least as new
	p, err := m.store.Read(rosterQuery())
	if err != nil {
		return wire.AppendOutcome(nil, kv.Outcome{Err: asKV(err)}) // not what was asked for
	}
	p.Ops[0].Count = int64(applied) //nolint:gosec // an index
	m.stamp(&p.Header)
	return wire.AppendPage(nil, p)
}

// standing asks a node up to which log index it has applied, as a member of this cluster.
func (m *Member) standing(ctx context.Context, node string) (applied uint64, err error) {
	applied, _, err = m.ask(ctx, node)
	return applied, err
}

// ask asks a node how it stands, and for its roster.
func (m *Member) ask(ctx context.Context, node string) (applied uint64, r Roster, err error) {
	b, err := m.net.net.Ask(ctx, node, standingRequest)
	if err != nil {
		return 0, r, err
	}
	p, err := wire.DecodePage(b)
	if err != nil || len(p.Ops) != 1 {
		return 0, r, fmt.Errorf("node %s: %w", node, errors.Join(errNoAnswer, err))
	}
	r, err = m.parseRoster(p)
	return uint64(p.Ops[0].Count), r, err //nolint:gosec // an index
}

// answers returns nil if a member answers now.
func (m *Member) answers(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, standingWait)
	defer cancel()
	_, err := m.standing(ctx, node)
	return err
}

// NewestRoster is the newest list of members of those that this member and those that it reaches have. One that has lost
// the leader may be behind.
func (m *Member) NewestRoster(ctx context.Context) Roster {
	newest := m.Roster()
	for _, s := range newest.Seats {
		if s.Replica == m.id.Replica {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, standingWait)
		_, r, err := m.ask(asking, s.Node)
		cancel()
		if err == nil && r.version > newest.version {
			newest = r
		}
	}
	return newest
}
