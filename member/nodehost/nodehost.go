//go:build !(proxyonly || arm || 386)

package nodehost

import "github.com/lni/dragonboat/v4"

// Built says whether this program can be a member.
const Built = true

type (
	// Host is a node of the library.
	Host = dragonboat.NodeHost
	// Info is what Host tells of itself.
	Info = dragonboat.NodeHostInfo
	// InfoOption says what that is.
	InfoOption = dragonboat.NodeHostInfoOption
	// Membership is who takes part, as the log has it.
	Membership = dragonboat.Membership
	// RequestResult is how a request ended.
	RequestResult = dragonboat.RequestResult
	// RequestState is a request on its way.
	RequestState = dragonboat.RequestState
	// ShardInfo is what Host knows of one log.
	ShardInfo = dragonboat.ShardInfo
	// SnapshotOption says how a snapshot is taken.
	SnapshotOption = dragonboat.SnapshotOption
	// Target is a replica's node, by name.
	Target = dragonboat.Target
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
