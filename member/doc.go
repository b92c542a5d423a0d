// Package member is a full replica: it holds all data, takes part in raft, and serves reads, writes and watches.
//
// A Member is a Backend. A command travels
//
//	Do -> door checks -> wire.AppendCommand -> propose -> raft log (one fsync) -> fsm.Update -> mvcc.Apply -> reply
//
// and is acknowledged once a quorum has it in its raft log; the state file follows lazily. A linearizable read takes a
// read-index round that begins after it arrived, then reads the replica's own store.
//
// What only the leader knows, the time of leases (lessor), is asked of it wherever the question comes from; see lease.go.
//
// Who the members are is in a replicated record, which the leader brings raft's membership in step with: roster.go, admit.go
// (joining), grow.go (the leader's part), remove.go, lostlog.go (a disk that has lost something).
//
// # Files below Config.Dir
//
//	member.json   format, cluster id, replica id, node id; written before anything else, and once more when raft has run
//	roster.json   of a member that has joined: the members it was told of, until the log has told it
//	raft/         the library's NodeHost directory: log, snapshots
//	state.db      mvcc
//
// # What a member does by itself
//
// As leader it has history compacted (lead.go), ended leases revoked (lease.go) and the replicas compared (audit.go).
// Each member raises and disarms its own alarm by its quota (quota.go), and refuses writes while its disk is short
// (space.go). None of it writes or sends anything while nothing changes.
//
// # What ends a member
//
// The library, dragonboat, panics in goroutines of its own where its log or state machine returns an error. So they
// never do: what fails calls halt.stop, which does not return, and Run returns the error. Nothing is acknowledged
// after that, and the process must exit, because the goroutines that stopped hold on to what they had.
//
// # Locks
//
// None is held while another is taken, except that raftFS.mu may be taken under logFile.mu.
package member
