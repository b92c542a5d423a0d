//go:build !(proxyonly || arm || 386)

package nodehost

import "github.com/lni/dragonboat/v4"

// Built says whether this program can be a member.
const Built = true

type ( //nolint:revive // these are the library's own names, and documented there
	Host           = dragonboat.NodeHost
	InfoOption     = dragonboat.NodeHostInfoOption
	Membership     = dragonboat.Membership
	RequestResult  = dragonboat.RequestResult
	RequestState   = dragonboat.RequestState
	ShardInfo      = dragonboat.ShardInfo
	SnapshotOption = dragonboat.SnapshotOption
	Target         = dragonboat.Target
)

// Its errors.
var (
	ErrClosed        = dragonboat.ErrClosed
	ErrPayloadTooBig = dragonboat.ErrPayloadTooBig
	ErrShardClosed   = dragonboat.ErrShardClosed
	ErrShardNotFound = dragonboat.ErrShardNotFound
	ErrShardNotReady = dragonboat.ErrShardNotReady
	ErrSystemBusy    = dragonboat.ErrSystemBusy
)

// New is dragonboat.NewNodeHost.
var New = dragonboat.NewNodeHost
