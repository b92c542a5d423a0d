package member

import (
	"context"

	"holdfast/kv"
)

// Leave asks the cluster to remove this member. It returns once that is on the list of members; the leader then does it,
// when it may. Asking again changes nothing. The last voter is refused with PreconditionFailed: a cluster without one has
// no data.
func (m *Member) Leave(ctx context.Context) error {
	_, err := m.changeRoster(ctx, func(r *Roster) (bool, error) {
		own := r.Seat(m.id.Replica)
		if own == nil || own.State == SeatLeaving {
			return false, nil
		}
		if err := r.CanLose(m.id.Replica); err != nil {
			return false, err
		}
		return r.leave(m.id.Replica)
	})
	return err
}

// CanLose says why the cluster cannot do without a member: nobody else would vote.
func (r *Roster) CanLose(replica uint64) error {
	for _, s := range r.Seats {
		if s.Replica != replica && s.State == SeatVoter {
			return nil
		}
	}
	return kv.Errorf(kv.PreconditionFailed, "this member is the only voter with the cluster's data: let another box join and become a voter first, "+
		"or, to give this cluster up, run `agent leave --force` and start anew")
}

// RosterOf reads the list of members out of the answer to a query for RosterQuery.
func RosterOf(p kv.Page) (Roster, error) {
	if len(p.Ops) != 1 {
		return Roster{}, kv.Errorf(kv.Internal, "the answer to a question for the list of members has another shape")
	}
	return parseRoster(p)
}

// RosterQuery asks any node of the cluster for the list of members, as of now.
func RosterQuery() kv.Query {
	return kv.Query{Ops: []kv.Op{kv.Records{Prefix: []byte(rosterRecord)}}}
}
