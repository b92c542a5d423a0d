package member

import "holdfast/kv"

// ReplicasIn are the members that an answer to RosterQuery lists, in order of id.
func ReplicasIn(p kv.Page) ([]kv.Replica, error) {
	r, err := RosterOf(p)
	if err != nil {
		return nil, err
	}
	list := make([]kv.Replica, 0, len(r.Seats))
	for _, s := range r.Seats {
		one := kv.Replica{ID: s.Replica, Name: s.Name, ClientURLs: s.ClientURLs, Learner: s.State == SeatJoining}
		for _, addr := range s.Addresses {
			one.PeerURLs = append(one.PeerURLs, "quic://"+addr)
		}
		list = append(list, one)
	}
	return list, nil
}
