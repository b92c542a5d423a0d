package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/member/nodehost"
)

// Defaults of Config.
const (
	DefaultFlushEvery   = 30 * time.Second
	DefaultDiskReserve  = 256 << 20
	DefaultRequestBytes = 3 << 19 // 1.5 MiB, as etcd has it

	DefaultSnapshotEntries = snapshotEntries
)

// Built says whether this program can be a member; see package nodehost.
const Built = nodehost.Built

// Config says what a member is and where it lives.
type Config struct {
	// Dir holds all of the member's files. It is created if it is not there, and an empty one founds a cluster of one.
	// Only one member may be open on it.
	Dir string

	// ClusterID, ReplicaID and NodeID are recorded when the member is founded and must be zero or the same afterwards.
	// Zero at founding: a random cluster id, replica id 1, a random node id. NodeID has the form of a UUID.
	ClusterID uint64
	ReplicaID uint64
	NodeID    string
	// Peers are the replicas that found the cluster together, by replica id, with their node ids: all of them, this one
	// included, and the same for each founder, which then needs the three ids above. It counts for an empty Dir only;
	// afterwards the log knows the membership. Empty: a cluster of one.
	Peers map[uint64]string

	// Name, Addresses and ClientURLs are what the cluster's roster says of this member: a label, where other nodes reach it
	// (host:port; none: over connections that it opens), and where its clients do. The member keeps its entry up to date.
	Name       string
	Addresses  []string
	ClientURLs []string
	// Voters seeds how many voters a new cluster wants; 0 for DefaultVoters.
	Voters int
	// ReplaceAfter seeds for how long a voter of a new cluster has to be away before its seat is free for another box; 0 keeps
	// it for ever.
	ReplaceAfter time.Duration
	// OnRoster is told whom the cluster consists of, at once and whenever that changes. It must not block. Nil: nobody.
	OnRoster func(Roster)

	// Version is what Condition shows.
	Version string

	Log     *slog.Logger          // nil for none
	Metrics prometheus.Registerer // nil for none; names begin with holdfast_member_, or are etcd's
	Network Network               // to other members, nil for none; owned by the member

	// Answer answers what other members' Ask asks; nil: nothing. It is called concurrently, with a context that ends when
	// the asker is gone, and its answer has at most AskMax bytes.
	Answer func(ctx context.Context, request []byte) []byte

	// History is how long superseded revisions stay readable; 0 keeps them until a client compacts.
	History time.Duration
	// FlushEvery is how long applied commands may wait in memory before they are written to the state file;
	// 0 for DefaultFlushEvery.
	FlushEvery time.Duration
	// DiskReserve is the free space below which writes are refused. 0 and DefaultDiskReserve are the default: that much,
	// but at most an eighth of the file system. Negative for none.
	DiskReserve int64
	// Quota is how many bytes the state may take before writes are refused on all members (AlarmNoSpace). It is this
	// member's own: others may have more room. 0 for DefaultQuota, as in etcd; negative for none.
	Quota int64
	// AuditEvery is how often the replicas are compared, if anything has changed; 0 for DefaultAuditEvery, negative for
	// never. The leader's counts.
	AuditEvery time.Duration
	// RequestBytes is the most bytes of one encoded command; 0 for DefaultRequestBytes.
	RequestBytes int
	// SnapshotEntries is how many log entries there are between two snapshots, at most: a restart replays that many, and
	// half as many are kept for members that lag. 0 for DefaultSnapshotEntries.
	SnapshotEntries uint64

	// Free returns the bytes free for this process and the size of the file system that holds a path. Nil asks the
	// system.
	Free func(path string) (free, size int64, err error)
	// LogWrite is called before each write of the raft log, from the loop that makes it, which waits until it returns; nil:
	// nothing is. So a test holds a disk up.
	LogWrite func()
	// Clock is a clock that no one can set and that counts suspend. Nil is the system's boot time clock.
	Clock func() time.Duration

	founding bool // by Found: the members are listed by the next start, with its settings
}

// withDefaults returns c with its zero values replaced by what they stand for.
func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("member: no directory given")
	}
	if c.History < 0 || c.FlushEvery < 0 || c.RequestBytes < 0 {
		return c, fmt.Errorf("member: negative setting: history %s, flush %s, request bytes %d",
			c.History, c.FlushEvery, c.RequestBytes)
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	c.FlushEvery = cmp.Or(c.FlushEvery, DefaultFlushEvery)
	c.Voters = cmp.Or(c.Voters, DefaultVoters)
	if c.OnRoster == nil {
		c.OnRoster = func(Roster) {}
	}
	c.AuditEvery = cmp.Or(c.AuditEvery, DefaultAuditEvery)
	c.Quota = cmp.Or(c.Quota, DefaultQuota)
	c.RequestBytes = cmp.Or(c.RequestBytes, DefaultRequestBytes)
	c.SnapshotEntries = cmp.Or(c.SnapshotEntries, DefaultSnapshotEntries)
	if c.RequestBytes > maxRequestBytes {
		return c, fmt.Errorf("member: request bytes %d: at most %d", c.RequestBytes, maxRequestBytes)
	}
	if err := c.checkPeers(); err != nil {
		return c, err
	}
	if c.Network == nil {
		c.Network = alone{}
	}
	if c.Free == nil {
		c.Free = diskFree
	}
	if c.Clock == nil {
		c.Clock = bootClock()
	}
	return c, nil
}

// checkPeers refuses founders that would not find each other.
func (c Config) checkPeers() error {
	if len(c.Peers) == 0 {
		return nil
	}
	if c.ClusterID == 0 || c.ReplicaID == 0 || c.Peers[c.ReplicaID] != c.NodeID {
		return fmt.Errorf("member: with founders given, cluster id, replica id and node id are too, and the founders "+
			"name this node: replica %d is node %q there, node %q here", c.ReplicaID, c.Peers[c.ReplicaID], c.NodeID)
	}
	seen := make(map[string]uint64, len(c.Peers))
	for replica, node := range c.Peers {
		if other, twice := seen[node]; replica == 0 || !nodeIDForm.MatchString(node) || twice {
			return fmt.Errorf("member: founder %d on node %q: want a replica id above 0 and a node id of the form of a "+
				"UUID in lower case, which no other has (replica %d)", replica, node, other)
		}
		seen[node] = replica
	}
	if len(c.Peers) > 1 && c.Network == nil {
		return errors.New("member: several founders but no network between them")
	}
	return nil
}

// maxRequestBytes leaves room for several commands in the log that the library keeps in memory (maxInMemLog).
const maxRequestBytes = maxInMemLog / 4
