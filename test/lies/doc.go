// Package lies shows what a program at the edge may tell its devices that is not so, with the programs that people use there
// today, and that Holdfast does not:
//
//  1. A stale value as if it were fresh: etcd's grpc-proxy.
//  2. An acknowledged write that is gone, by kill -9 or in a full queue: a mosquitto bridge.
//  3. A newer value that an older one overwrote, silently: NATS JetStream key-value with sources.
//  4. An answer to what is not known: etcd's grpc-proxy, on a key that it has found to be absent once.
//
// Each test runs the other program first, which must fail, and says its version, then the built agent, which must not. A test
// whose other program no longer lies fails too: then this package is wrong. YurtHub (which answers 201 offline and drops the
// object) wants a Kubernetes API and is not here. It is a module of its own, so that what the others need stays out of the
// product's go.mod.
//
// The tests have the build tag lies and are run by make lies. AGENT names the binary, CACHE a folder for those built here.
package lies

import (
	_ "github.com/nats-io/nats-server/v2/server" // what is built and run
	_ "go.etcd.io/etcd/server/v3/etcdmain"
)
