package api

import (
	"context"
	"io"

	"holdfast/kv"
)

// Admin is what a full replica can do for an operator beside serving keys. Servers find it by type assertion on their
// Backend; a node without it answers Unsupported. All methods may be called concurrently; errors are as Backend's.
type Admin interface {
	// Replicas lists the members of the cluster in order of id. Unless local is set it is linearizable.
	Replicas(ctx context.Context, local bool) ([]kv.Replica, error)
	// RemoveReplica takes a member out of the cluster for good and returns once it is out. It fails with KeyNotFound if there
	// is none of that id, Invalid for the last voter, and Busy if the voters left would be no quorum.
	RemoveReplica(ctx context.Context, id uint64) error
	// Wanted is what is wanted of the members; SetWanted changes that for the whole cluster.
	Wanted() kv.Wanted
	SetWanted(ctx context.Context, w kv.Wanted) error
	// Condition tells how this member stands, from memory, without asking another.
	Condition() kv.Condition
	// Hash digests the keys and their history up to a revision, 0 for the newest. It fails with Compacted or
	// FutureRevision.
	Hash(ctx context.Context, revision int64) (kv.Hash, error)
	// Defragment gives the free pages of this member's state file back to the file system. Reads and writes go on
	// meanwhile. It returns when it is done; a second call meanwhile is refused with Busy.
	Defragment(ctx context.Context) error
	// MoveLeader has another replica lead, if this one does: else NoLeader. It fails with Invalid if there is no such
	// voter.
	MoveLeader(ctx context.Context, to uint64) error
	// Snapshot opens a backup of the state as of now, all but its checksum. It must be closed, and holds pages of the
	// state file until then; size is how many bytes it has.
	Snapshot(ctx context.Context) (data io.ReadSeekCloser, size int64, err error)
}
