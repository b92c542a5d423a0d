// Command trio runs members that founded a cluster together, as processes of their own: the shipped member, transport
// and doors, put together by hand so that all three are there from the first moment. Benches and suites of clients
// that want more than one member use it.
//
//	trio found DIR PEER PEER PEER     makes DIR/1 to DIR/3; a PEER is the UDP address of one of them
//	trio run DIR/1 LISTEN [CERT KEY]  runs the first until SIGTERM; LISTEN is the TCP address of its clients, over TLS
//	                                  if a certificate and its key are named
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"holdfast/internal/bridge"
	"holdfast/transport"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := errors.New("usage: trio found DIR PEER..., or trio run DIR LISTEN [CERT KEY]")
	switch args := os.Args[1:]; {
	case len(args) > 2 && args[0] == "found":
		err = found(args[1], args[2:])
	case len(args) == 3 && args[0] == "run":
		err = run(ctx, args[1], door{addr: args[2]})
	case len(args) == 5 && args[0] == "run":
		err = run(ctx, args[1], door{addr: args[2], cert: args[3], key: args[4]})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "trio:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be cleaned up
	}
}

// life of the certificates: longer than any run.
const life = 30 * 24 * time.Hour

// found draws the identities of all founders and tells each of all.
func found(dir string, peers []string) error {
	p := plan{Cluster: uint64(time.Now().UnixNano())} //nolint:gosec // positive
	ca, err := transport.NewCA(fmt.Sprintf("%016x", p.Cluster))
	if err != nil {
		return err
	}
	ids := make([]*transport.Identity, len(peers))
	for i, peer := range peers {
		if ids[i], err = transport.NewIdentity(); err != nil {
			return err
		}
		grant := transport.Grant{Node: ids[i].Node(), Role: transport.Member, Life: life}
		cert, err := ca.Issue(ids[i].PublicKey(), grant, time.Now())
		if err != nil {
			return err
		}
		if ids[i], err = ids[i].WithCertificate(cert, ca.Certificate()); err != nil {
			return err
		}
		p.Founders = append(p.Founders, founder{Node: bridge.MemberNode(ids[i].Node()), Peer: peer})
	}
	for i, id := range ids {
		home := filepath.Join(dir, strconv.Itoa(i+1))
		p.Replica = uint64(i + 1) //nolint:gosec // few
		if err := errors.Join(os.MkdirAll(home, 0o700), p.save(home), id.Save(home, nil)); err != nil {
			return err
		}
	}
	return nil
}
