// Package raftnet carries raft messages and snapshots between members, over one connection to each.
//
// A Net is a member.Network. Connections come from outside (ServeConn), whoever of two nodes dialed, and are reached
// through small interfaces, so that the package knows no QUIC. Of several connections to a node the newest is used.
//
//	SendMessageBatch -> lane's queue -> sender -> stream ... stream -> receiver -> window -> Serve's recv
//
// # What travels
//
// In each direction of a connection there are two streams with batches, the lanes: one for what keeps a leader in office
// (heartbeats, votes, answers, read index), and one for what carries log entries, of which a single message may have
// 64 MiB. So entries on a slow link hold up no heartbeat. A snapshot has a stream of its own, of the lowest urgency;
// a question to another member, about what only the leader knows, has one that goes before log entries, and the answer
// comes back on it.
//
// Each stream begins with a hello: format version, lane, cluster and the sender's boot nonce; the sender's node id is
// what the connection proves.
//
// # What is promised
//
// Every batch is delivered at most once, and those of a lane in the order sent: they are numbered per boot and lane, and
// what comes twice, or after a later one, is dropped. (Followers forward proposals as messages, which the leader appends
// unchecked: a second copy could undo a newer write.) Any batch may be lost. Whoever carries batches by other means than
// a stream, as in datagrams, puts them through the same window.
//
// # When it does not work
//
// Without a connection, or while its link is lost, sending fails at once. The library reports that to raft under the
// replica id of the sender, which helps nobody; so this package tells raft itself which peer is unreachable, by a
// message to this replica such as the library makes: Unreachable from that peer. The leader then stops sending ahead and
// probes where the peer's log ends.
//
// # Locks
//
// lane.mu, held while a batch is handed over so that order is kept, may be taken before nothing. peer.mu and Net.mu are
// never held with another.
package raftnet
