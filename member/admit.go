package member

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/kv"
)

// Admission is what the cluster tells a box that it takes in as a member. Stage turns it into a dir that Open opens.
type Admission struct {
	Cluster uint64 `json:"cluster"`
	Replica uint64 `json:"replica"` // the box's own, never given to another
	Node    string `json:"node"`
	Roster  Roster `json:"roster"` // where the other members are
}

// Applicant is a box that wants to be a member.
type Applicant struct {
	Node       string // in the form of Config.NodeID
	Name       string
	Addresses  []string
	ClientURLs []string
}

// ErrFull says that the cluster has all the members it wants.
var ErrFull = errors.New("the cluster has all the members it wants")

// copiedWait is how long a member has to answer before it is taken for gone.
const copiedWait = time.Second

// Admit gives a box a seat among the members, or returns ErrFull. A box that had one before lost its data, or else would
// not ask: the old replica is removed, and the box gets another id. While the old one answers, the box is a copy of it
// and refused.
func (m *Member) Admit(ctx context.Context, a Applicant) (Admission, error) {
	if old := m.seatOf(a.Node); old != nil {
		asking, cancel := context.WithTimeout(ctx, copiedWait)
		_, err := m.standing(asking, a.Node)
		cancel()
		if err == nil || a.Node == m.id.Node {
			return Admission{}, kv.Errorf(kv.PermissionDenied, "node %s is member %d of this cluster and answers: the box that asks "+
				"has a copy of its identity; give it an empty data dir", a.Node, old.Replica)
		}
	}
	if err := m.awaitRoster(ctx); err != nil {
		return Admission{}, err
	}
	var replica uint64
	r, err := m.changeRoster(ctx, func(r *Roster) (bool, error) {
		for i := range r.Seats {
			if r.Seats[i].Node == a.Node {
				r.Seats[i].State = SeatLeaving
			}
		}
		if r.Taken() >= r.Voters {
			return false, ErrFull
		}
		replica = r.Next
		r.add(Seat{Replica: replica, Node: a.Node, Name: a.Name, Addresses: a.Addresses, ClientURLs: a.ClientURLs, State: SeatJoining})
		return true, nil
	})
	if err != nil {
		return Admission{}, err
	}
	return Admission{Cluster: m.id.Cluster, Replica: replica, Node: a.Node, Roster: r}, nil
}

// awaitRoster returns once the cluster has a list of members: its first leader makes it.
func (m *Member) awaitRoster(ctx context.Context) error {
	timer := time.NewTimer(leaderWait)
	defer timer.Stop()
	for {
		r, changed := m.roster.get()
		if r.version != 0 && !r.none() {
			return nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return noLeader("the cluster has no list of its members yet")
		case <-ctx.Done():
			return noLeader("the caller gave up waiting: %v", context.Cause(ctx))
		case <-m.stopping:
			return errStopping()
		}
	}
}

func (m *Member) seatOf(node string) *Seat {
	r, _ := m.roster.get()
	i := slices.IndexFunc(r.Seats, func(s Seat) bool { return s.Node == node && s.State != SeatLeaving })
	if i < 0 {
		return nil
	}
	return &r.Seats[i]
}

const firstRosterName = "roster.json" // below Config.Dir: the members a joiner was told of, until the log has told it

// Stage makes dir, which must be there and empty but for what an earlier Stage left, one that Open opens as the member
// that was admitted. It returns once that is on disk.
func Stage(dir string, a Admission) error {
	b, err := json.Marshal(a.Roster)
	if err != nil {
		return err
	}
	if err := writeDurably(filepath.Join(dir, firstRosterName), b); err != nil {
		return err
	}
	return identity{Format: identityFormat, Cluster: a.Cluster, Replica: a.Replica, Node: a.Node, Join: true}.save(dir)
}

// SeatOf is the id of the cluster that the member in dir belongs to, and of its replica there; both are 0 if it has not been
// founded yet.
func SeatOf(dir string) (cluster, replica uint64, err error) {
	b, err := os.ReadFile(filepath.Join(dir, identityName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	id, err := parseIdentity(filepath.Join(dir, identityName), b)
	return id.Cluster, id.Replica, err
}

func (m *Member) loadFirstRoster() (r Roster, err error) {
	b, err := os.ReadFile(filepath.Join(m.cfg.Dir, firstRosterName))
	if errors.Is(err, fs.ErrNotExist) {
		return Roster{}, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, kv.Errorf(kv.Corrupt, "%s in %s is damaged: move this member's dir away and join again: %w", firstRosterName, m.cfg.Dir, err)
	}
	return r, nil
}

// plainNode is a node id in the form that certificates have it.
func plainNode(node string) string { return strings.ReplaceAll(node, "-", "") }
