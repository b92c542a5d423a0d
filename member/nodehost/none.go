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
func New(config.NodeHostConfig) (*Host, error) { return nil, errNone }

// The errors of the library that package member tells apart. None is ever returned here.
var (
	ErrClosed        = errors.New("closed")
	ErrPayloadTooBig = errors.New("payload too big")
	ErrShardClosed   = errors.New("shard closed")
	ErrShardNotFound = errors.New("shard not found")
	ErrShardNotReady = errors.New("shard not ready")
	ErrSystemBusy    = errors.New("system busy")
)

// Host cannot be made. Its methods are those of dragonboat.NodeHost that package member calls.
type Host struct{}

type (
	InfoOption struct{ SkipLogInfo bool }
	Info       struct{ ShardInfoList []ShardInfo }
	ShardInfo  struct {
		ShardID, LeaderID, Term uint64
		Replicas                map[uint64]string
		Pending                 bool
	}
	Membership struct {
		ConfigChangeID    uint64
		Nodes, NonVotings map[uint64]string
		Removed           map[uint64]struct{}
	}
	SnapshotOption struct {
		CompactionOverhead         uint64
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
func (RequestResult) GetResult() statemachine.Result { return statemachine.Result{} }

func (*Host) Close()                                  {}
func (*Host) GetNoOPSession(uint64) *client.Session   { return nil }
func (*Host) GetNodeHostInfo(InfoOption) *Info        { return &Info{} }
func (*Host) RequestLeaderTransfer(_, _ uint64) error { return errNone }
func (*Host) SyncGetShardMembership(context.Context, uint64) (*Membership, error) {
	return nil, errNone
}
func (*Host) StartOnDiskReplica(map[uint64]Target, bool, statemachine.CreateOnDiskStateMachineFunc, config.Config) error {
	return errNone
}
func (*Host) Propose(*client.Session, []byte, time.Duration) (*RequestState, error) {
	return nil, errNone
}
func (*Host) ReadIndex(uint64, time.Duration) (*RequestState, error) { return nil, errNone }
func (*Host) QueryRaftLog(_, _, _, _ uint64) (*RequestState, error)  { return nil, errNone }
func (*Host) RequestSnapshot(uint64, SnapshotOption, time.Duration) (*RequestState, error) {
	return nil, errNone
}
func (*Host) RequestDeleteReplica(_, _, _ uint64, _ time.Duration) (*RequestState, error) {
	return nil, errNone
}
func (*Host) RequestAddNonVoting(_, _ uint64, _ Target, _ uint64, _ time.Duration) (*RequestState, error) {
	return nil, errNone
}
func (*Host) RequestAddReplica(_, _ uint64, _ Target, _ uint64, _ time.Duration) (*RequestState, error) {
	return nil, errNone
}
