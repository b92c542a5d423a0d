// Package transport is the QUIC endpoint of a node: who it is, whom it believes, and how bytes get there.
//
// An Endpoint puts dialing and listening on one UDP socket and tells protocols apart by ALPN. A peer is a node id
// proven by a certificate of the cluster's CA, never an address. A Conn carries streams and datagrams and knows how its
// link is doing; a Pool keeps one Conn to each of a set of peers, whoever of the two dialed it.
//
// The package knows no raft and no kv, and it is the only one that imports quic-go. Everything that touches the outside
// comes in through Config, so the whole of it runs inside testing/synctest on internal/simnet.
//
// # Who is let in
//
// Both ends check the other in tls.Config.VerifyConnection, which runs for resumed sessions too: the certificate is
// signed by the cluster's CA, names this cluster, is valid at the judged time, has a role that fits the protocol and
// the side, is the expected node, and is allowed by Config.Allowed. The reason of a refusal crosses the link as a
// private TLS alert number (see Refusal), so that the refused side can tell its operator what to do; the details stay
// in the log of the refusing side. The protocol Join alone takes clients without a certificate, and there the client
// pins the CA by its hash before a byte of its own goes out.
//
// # Locks
//
// Pool.mu is taken before link.mu, and link.mu before the locks within a Conn. No two others are held together, and none
// across I/O.
package transport
