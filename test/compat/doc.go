// Package compat proves that unchanged etcd clients work: it starts a real etcd and the built agent side by side, gives
// both the same calls, and compares every answer. What the agent cannot do is in the tables as a refusal with its reason,
// so the list of gaps is printed and never silent.
//
// It is a module of its own, so that etcd's server and its command line stay out of the product's go.mod.
//
// What the tests read from the environment:
//
//	AGENT           the agent's binary; built from the tree if not set
//	CACHE           a folder for the binaries that are built; the user's cache folder if not set
//	SUBJECT=etcd    compare etcd with a second etcd: whether the tables and the normalising are steady
//	ETCDCTL34       Debian's etcdctl 3.4; the one in PATH if not set
//	SEED, OPS       of the random test: drawn and printed if not set; how many operations
package compat
