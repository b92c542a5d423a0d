//go:build proxyonly || arm || 386

package nodehost

import (
	"context"
	"errors"
	"time"

	"github.com/lni/dragonboat/v4/client"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/statemachine"
)

// Built says whether this program can be a member.
const Built = false

var errNone = errors.New("this program was built without raft: it can only be a proxy")

// New is an error.
func New(config.NodeHostConfig) (*NodeHost, error) { return nil, errNone }

// The errors of the library that package member tells apart. None is ever returned here.
var (
	ErrClosed        = errors.New("closed")
	ErrPayloadTooBig = errors.New("payload too big")
	ErrShardClosed   = errors.New("shard closed")
	ErrShardNotFound = errors.New("shard not found")
	ErrShardNotReady = errors.New("shard not ready")
	ErrSystemBusy    = errors.New("system busy")
)

// NodeHost cannot be made. Its methods are those of dragonboat.NodeHost that package member calls.
type NodeHost struct{}

type (
	NodeHostInfoOption struct{ SkipLogInfo bool }
	NodeHostInfo       struct{ ShardInfoList []ShardInfo }
	ShardInfo          struct {
		ShardID, ReplicaID, LeaderID, Term uint64
		Replicas                           map[uint64]string
		IsNonVoting, IsWitness, Pending    bool
		ConfigChangeIndex                  uint64
	}
	Membership struct {
		ConfigChangeID               uint64
		Nodes, NonVotings, Witnesses map[uint64]string
		Removed                      map[uint64]struct{}
	}
	SnapshotOption struct {
		CompactionOverhead         uint64
		ExportPath                 string
		Exported                   bool
		OverrideCompactionOverhead bool
	}
	Target = string
)

// RequestState is a request on its way.
type RequestState struct{ CompletedC chan RequestResult }

// RequestResult is how it ended.
type RequestResult struct{}

func (*RequestState) ResultC() chan RequestResult    { return nil }
func (*RequestState) Release()                       {}
func (RequestResult) Completed() bool                { return false }
func (RequestResult) Dropped() bool                  { return false }
func (RequestResult) Rejected() bool                 { return false }
func (RequestResult) Terminated() bool               { return true }
func (RequestResult) Timeout() bool                  { return false }
func (RequestResult) Aborted() bool                  { return false }
func (RequestResult) GetResult() statemachine.Result { return statemachine.Result{} }
func (RequestResult) SnapshotIndex() uint64          { return 0 }

func (*NodeHost) Close()                                           {}
func (*NodeHost) GetNoOPSession(uint64) *client.Session            { return nil }
func (*NodeHost) GetNodeHostInfo(NodeHostInfoOption) *NodeHostInfo { return &NodeHostInfo{} }
func (*NodeHost) RequestLeaderTransfer(_, _ uint64) error          { return errNone }
func (*NodeHost) GetLeaderID(uint64) (uint64, uint64, bool, error) { return 0, 0, false, errNone }
func (*NodeHost) SyncGetShardMembership(context.Context, uint64) (*Membership, error) {
	return nil, errNone
}
func (*NodeHost) StartOnDiskReplica(map[uint64]Target, bool, statemachine.CreateOnDiskStateMachineFunc, config.Config) error {
	return errNone
}
func (*NodeHost) Propose(*client.Session, []byte, time.Duration) (*RequestState, error) {
	return nil, errNone
}
func (*NodeHost) ReadIndex(uint64, time.Duration) (*RequestState, error) { return nil, errNone }
func (*NodeHost) RequestSnapshot(uint64, SnapshotOption, time.Duration) (*RequestState, error) {
	return nil, errNone
}
func (*NodeHost) RequestDeleteReplica(_, _, _ uint64, _ time.Duration) (*RequestState, error) {
	return nil, errNone
}
func (*NodeHost) RequestAddNonVoting(_, _ uint64, _ Target, _ uint64, _ time.Duration) (*RequestState, error) {
	return nil, errNone
}
func (*NodeHost) RequestAddReplica(_, _ uint64, _ Target, _ uint64, _ time.Duration) (*RequestState, error) {
	return nil, errNone
}
