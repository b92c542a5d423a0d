// Package raftnet carries raft messages and snapshots between members.
//
// A Net is a member.Network. Connections come from outside (ServeConn, ServePath, ServeBulk), whoever of two nodes dialed,
// and are reached through small interfaces, so that the package knows no QUIC. Of several connections that ServeConn serves
// the newest is used.
//
//	SendMessageBatch -> quiet? -+-> courier -> datagrams ... courier --+-> window -> order -> Serve's recv
//	                            +-> lane's queue -> stream ... stream -+
//
// # What travels
//
// Small batches go as datagrams by a courier (letter), unless the link is short and loses nothing; on one that loses, entries
// of some kilobytes do in parts. The rest goes over two streams in
// each direction of a connection, the lanes: one for what keeps a leader in office (heartbeats, votes, answers, read
// index), and one for what carries log entries, of which a single message may have 64 MiB. So entries on a slow link hold
// up no heartbeat. Both ways share the numbers of a lane. A snapshot is kept in a file on both sides and goes in pieces over
// connections of its own, or beside all the rest where there are none (stripe), one at a time to a peer (turns), as fast as heartbeats
// are not held up by it (pace), and so do long batches of entries on a long link; on a nearer one that loses they go in slices over those
// connections (slices). A question to another member, about what only the leader knows, has a stream that goes before log
// entries, and the answer comes back on it. Heartbeats that both ends know are left out: see hush.
//
// Each stream begins with a hello: format version, kind, cluster and the sender's boot nonce; the sender's node id is
// what the connection proves. Before any of them, both ends tell which starts of the node they are: see lives.go.
//
// # What is promised
//
// Every batch is delivered at most once: they are numbered per boot and lane, and what comes twice is dropped. Those with
// entries are delivered in the order sent: one that comes early waits for those before it, 1.25 round trips at most, and
// one that comes after its turn is dropped, but for what it forwards to the leader. (Followers forward proposals as
// messages, which the leader appends unchecked: a second copy could undo a newer write.) Any batch may be lost.
//
// # When it does not work
//
// Without a connection, or while its link is lost, messages are dropped at once, but for commands that are handed on to a leader: those wait
// for the link, ten seconds at most (aside.go). The library hears of no error: it would drop, without a word, all that follows for up to
// a second and a half, links that are back included, and report the failure under the replica id of the sender, which helps nobody. So
// this package tells raft itself which peer is unreachable, by a message to this replica such as the library makes: Unreachable
// from that peer. The leader then stops sending ahead and probes where the peer's log ends.
//
// # Locks
//
// inLane.mu is held while a batch is handed over, so that order is kept, and outLane.mu while one is given to a courier or
// a queue. Net.mu may be held when that of a courier or a hush is taken, and intake.mu when Net.mu or that of a transfer is.
// No two others are held together.
package raftnet
