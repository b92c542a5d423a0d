// Package auth decides who may do what: a Policy is users, roles, device tokens and the scopes of nodes, as etcd has them
// and then some, and it answers whether a kv.By may do a command, read or watch.
//
// A Policy is a value that never changes: Change makes the next one from a kv.SetAuth, SetDevice or SetScope. So the policy
// at an index of the log is a function of the log; mvcc keeps it as entries of its side table, in snapshots and in backups,
// which hold password hashes and the seed of the key that tokens are signed with (a restored cluster draws another one).
// Nothing here reads a clock but Guard and what it has of it.
//
// # Who asks
//
// A door puts what it knows into a kv.By and hands it on with the request:
//
//	administration socket         Principal "root"
//	client certificate            Principal is its common name
//	Authorization, or etcd's      Token, as it was shown: a token of etcd's Authenticate, a device token, or Basic
//	  metadata "token"
//	an uplink                     what the proxy says, with Node, which the member takes from the proxy's certificate
//
// Guard stands between the doors of a node and everything behind them. It finds out who a Token is, refuses at once what
// the policy at hand refuses, and passes on a By that names a principal and the revision of the policy by which it was
// let in. mvcc judges each command once more when it is applied, by the policy at that place of the log; reads are judged
// again after they were read if the policy has changed meanwhile; watches are judged again whenever it does.
//
// # On a proxy
//
// A proxy without a policy passes Tokens on, and the member is the judge. To judge by itself, a proxy mirrors the policy:
// it asks for kv.ReadAuth{What: kv.AuthPolicy} as the principal kv.NodePrincipal + its own id, keeps what it got as it is,
// gives it to Decode, and puts a Guard with that in front of its queue and its cache. The Name of the question is the
// Key of the last answer: as long as nothing has changed, the answer is empty. What is sent has no password hashes and
// no seed: a proxy can verify tokens of etcd's kind and of devices, and make none. Basic, and Authenticate, go up.
//
// A principal that a proxy names without a Token to show for it (an op from its queue) may be any but one with every right,
// and may do no more than the node's own scope: see kv.NodeScope.
package auth
