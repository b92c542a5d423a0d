// Package api is what the servers need from a node, and how a node's answers look outside.
//
// The servers (api/rest, api/etcd, api/uplink, api/ops) know a node as a Backend and nothing more: a member is one, and
// a proxy or a queue is one around another. errors.go holds the one table from kv.Code to what each kind of client
// sees. Implementations fit the interfaces by shape and do not import this package; agent asserts that they fit.
package api

import (
	"context"
	"iter"
	"time"

	"holdfast/kv"
)

// Backend is a node as its servers see it. All methods may be called concurrently. Errors are *kv.Error; any other
// error is an internal fault. A context that ends before the answer makes Do return OutcomeUnknown if the command may
// have been sent, and NoLeader, UpstreamUnavailable or the like if it was certainly not.
type Backend interface {
	// Do applies a command. It returns once the command is durable: on a quorum, or, when Result.Queued is set, on
	// this node. A refusal that is part of the history (PreconditionFailed, Compacted, ...) has its Revision set.
	Do(ctx context.Context, c kv.Command) (kv.Result, error)
	// Read answers a query within the age it allows.
	Read(ctx context.Context, q kv.Query) (kv.Page, error)
	// Watch streams changes until ctx ends, the consumer stops, or the last watch is gone. It never skips an event. An
	// error is the last thing it yields.
	Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error]
}

// Reporter is a node as its operator sees it. Report answers from memory and never blocks.
type Reporter interface {
	Report() Status
}

// Status is the body of /v1/status and what `agent status` prints. Fields without a value on a kind of node are
// absent.
type Status struct {
	Name     string    `json:"name"`
	NodeID   string    `json:"node_id"`
	Version  string    `json:"version"`
	Mode     string    `json:"mode"`  // member or proxy: what the node is, not what was asked for
	State    string    `json:"state"` // starting, replaying, joining, serving, stopping
	Ready    bool      `json:"ready"`
	Reason   string    `json:"reason,omitempty"` // why not Ready
	Started  time.Time `json:"started"`
	DataDir  string    `json:"data_dir"`
	Listen   []string  `json:"listen,omitempty"`
	Epoch    string    `json:"epoch,omitempty"`
	Revision int64     `json:"revision"`

	Member *MemberStatus `json:"member,omitempty"`
	Proxy  *ProxyStatus  `json:"proxy,omitempty"`
	Queue  *QueueStatus  `json:"queue,omitempty"`
	Links  []LinkStatus  `json:"links,omitempty"`  // connections to other nodes
	Switch *SwitchStatus `json:"switch,omitempty"` // a change of the mode that is under way

	KeepAlive *KeepAliveStatus `json:"keep_alive,omitempty"`
	Budget    *BudgetStatus    `json:"budget,omitempty"` // with link.budget only
}

// BudgetStatus is what the links of the node have carried today, and may.
type BudgetStatus struct {
	LimitBytes int64     `json:"limit_bytes"`
	UsedBytes  int64     `json:"used_bytes"`
	Spent      bool      `json:"spent"`
	Until      time.Time `json:"until"` // when the next day begins
}

// KeepAliveStatus is how often the node speaks on uplinks at rest, so that NATs on the way do not forget it.
type KeepAliveStatus struct {
	EverySeconds float64    `json:"every_seconds"`
	Found        *time.Time `json:"found,omitempty"` // when it was measured on the present network, absent if it was not
	Short        bool       `json:"short"`           // a NAT forgets the node even sooner: what is sent to it at rest may be late
}

// ProxyStatus is the part of Status that a proxy has.
type ProxyStatus struct {
	Joined        bool           `json:"joined"`
	Upstream      string         `json:"upstream,omitempty"` // address of the member it is connected to, empty while it is not
	UplinkLost    bool           `json:"uplink_lost"`        // connected, and nothing comes back; or not connected
	UplinkError   string         `json:"uplink_error,omitempty"`
	Synced        bool           `json:"synced"`                // every prefix is mirrored and fed
	AgeSeconds    *float64       `json:"age_seconds,omitempty"` // proven age of the cache, absent without proof
	CacheBytes    int64          `json:"cache_bytes"`
	CacheMaxBytes int64          `json:"cache_max_bytes"`
	CacheHeldKeys int            `json:"cache_held_keys"` // cached on demand, because they were read
	Mirrors       []MirrorStatus `json:"mirrors,omitempty"`
}

// MirrorStatus is one prefix that a proxy mirrors.
type MirrorStatus struct {
	Prefix   string `json:"prefix"`
	Covered  bool   `json:"covered"`
	Revision int64  `json:"revision"`
	Reason   string `json:"reason,omitempty"` // why it is not covered
}

// LinkStatus is one connection to another node.
type LinkStatus struct {
	Node          string  `json:"node"`
	Role          string  `json:"role"`
	Protocol      string  `json:"protocol"`
	Address       string  `json:"address"`
	Way           string  `json:"way"` // udp, or tcp where that does not get through
	Lost          bool    `json:"lost"`
	RTTMillis     float64 `json:"rtt_ms"`
	LossShare     float64 `json:"loss"`
	BytesSent     uint64  `json:"bytes_sent"`
	BytesReceived uint64  `json:"bytes_received"`

	Mail *MailStatus `json:"mail,omitempty"` // between members
}

// MailStatus is what goes to a member in datagrams, over all connections there.
type MailStatus struct {
	LossShare float64           `json:"loss"`   // of datagrams, a moving average
	Copies    int               `json:"copies"` // of what matters, from the start
	Paths     int               `json:"paths"`  // connections that carry datagrams
	Retries   uint64            `json:"retries"`
	Bytes     map[string]uint64 `json:"bytes"` // by purpose: first, copy, repeat, retry and ack

	BulkBytes uint64  `json:"bulk_bytes"`           // of snapshots
	BulkPace  float64 `json:"bulk_pace,omitempty"`  // bytes a second at which one goes now, 0 if none does
	BulkLimit int64   `json:"bulk_limit,omitempty"` // link.bulk-rate where it holds now
}

// MemberStatus is the part of Status that a replica has.
type MemberStatus struct {
	ClusterID       string `json:"cluster_id"`
	ReplicaID       string `json:"replica_id"`
	Leader          string `json:"leader,omitempty"` // replica id, empty while there is none
	Term            uint64 `json:"term"`
	Applied         uint64 `json:"applied_index"`
	Durable         uint64 `json:"durable_index"` // what the state file holds; the log has the rest
	CompactRevision int64  `json:"compact_revision"`
	StateBytes      int64  `json:"state_bytes"`
	LogBytes        int64  `json:"log_bytes"`
	OverlayBytes    int64  `json:"overlay_bytes"`
	DiskFreeBytes   int64  `json:"disk_free_bytes"`
	WritesRefused   string `json:"writes_refused,omitempty"` // why writes are refused at present
	// LogHeldSeconds is for how long the disk has held back a write of the raft log; 0 if it does not. Meanwhile the member
	// takes no part in the cluster, whatever it says of the leader.
	LogHeldSeconds float64 `json:"log_held_seconds,omitempty"`
}
