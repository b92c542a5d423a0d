package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"holdfast/config"
	"holdfast/internal/bridge"
	"holdfast/member"
	"holdfast/member/raftnet"
	"holdfast/transport"
)

// memberNodeID is a node id in the form that members use.
func memberNodeID(node string) string { return bridge.MemberNode(node) }

// reachMembers gives a member its network to the others: connections to all that its roster names, kept by the pool in the
// address book that is returned.
func (a *Agent) reachMembers(cfg *member.Config) (*addressBook, error) {
	cluster, replica, err := member.SeatOf(cfg.Dir)
	if err != nil {
		return nil, openError(err)
	}
	replica = max(replica, firstReplica)
	for cluster == 0 { // it is being founded
		var b [8]byte
		_, _ = rand.Read(b[:])
		cluster = binary.LittleEndian.Uint64(b[:])
	}
	cfg.ClusterID = cluster
	lives, err := a.dir.beginLife(cluster, replica, a.opts.Log)
	if err != nil {
		return nil, err
	}
	copied := make(chan error, 1)
	raft, err := raftnet.New(raftnet.Options{Cluster: cluster, Node: cfg.NodeID, Replica: replica, Lives: lives, Copied: func(err error) {
		select {
		case copied <- err:
		default:
		}
	}, Sparing: a.withoutCopies, Spool: filepath.Join(cfg.Dir, "spool"), Room: cfg.Room, Log: a.opts.Log, Metrics: a.opts.Metrics})
	if err != nil {
		return nil, fmt.Errorf("network to other members: %w", err)
	}
	pool, err := bridge.Members(a.net.ep, raft, transport.PoolOptions{})
	if err != nil {
		return nil, errors.Join(err, raft.Close())
	}
	cfg.Network = raft
	a.reload.mu.Lock() // a reload comes before, and is seen here, or after, and finds it
	a.mail.Store(raft)
	a.limitBulk(a.reload.cfg.Link)
	a.reload.mu.Unlock()
	book := &addressBook{pool: pool, join: a.cfg.Join, copied: copied}
	cfg.OnRoster = book.told
	return book, nil
}

// limitBulk has the settings for snapshots to other members hold, on a member.
func (a *Agent) limitBulk(link config.Link) {
	if raft := a.mail.Load(); raft != nil {
		raft.LimitBulk(int64(link.BulkRate), link.BulkFree)
	}
}

// runWithPeers runs a member, and its connections and what is done beside it for as long as it may need them. A copy of
// another node's data dir ends with raftnet.ErrCopied.
func runWithPeers(ctx context.Context, m *member.Member, peers *addressBook, beside func(context.Context) error) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	links, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	var linkErr, besideErr, copiedErr error
	wg.Go(func() { linkErr = peers.pool.Run(links) })
	wg.Go(func() { besideErr = beside(links) })
	wg.Go(func() {
		select {
		case err := <-peers.copied:
			copiedErr = fmt.Errorf("%w: this data dir is a copy of that node's, or was put back to an older state. It takes part no more, "+
				"since what it acknowledges would be acknowledged for two. Give the box an empty data dir, --join and a token: it joins "+
				"as a new member", err)
			end()
		case <-links.Done():
		}
	})
	err := m.Run(ctx)
	stop()
	wg.Wait()
	return errors.Join(copiedErr, err, linkErr, besideErr)
}

// memberAddresses is where members answer.
func memberAddresses(r member.Roster) (all []string) {
	for _, s := range r.Seats {
		if s.State != member.SeatLeaving {
			all = append(all, s.Addresses...)
		}
	}
	return all
}

// clientURLs is where clients of other machines reach this node: its listeners, those on all addresses under each that it
// has. What only this machine can dial is told where the cluster is on this machine alone.
func (a *Agent) clientURLs() (all []string) {
	hosts, alone := []string{}, true
	for _, p := range a.peerAddresses() {
		host, _, err := net.SplitHostPort(p)
		if err != nil {
			continue
		}
		hosts = append(hosts, host)
		ip, err := netip.ParseAddr(host)
		alone = alone && (host == "localhost" || err == nil && ip.IsLoopback())
	}
	for _, raw := range a.Addrs() {
		u, err := url.Parse(raw)
		if err != nil || u.Scheme == "unix" {
			continue
		}
		ip, err := netip.ParseAddr(u.Hostname())
		switch local := u.Hostname() == "localhost" || err == nil && ip.IsLoopback(); {
		case err == nil && ip.IsUnspecified():
			for _, host := range hosts {
				all = append(all, (&url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(host, u.Port())}).String())
			}
		case !local || alone:
			all = append(all, raw)
		}
	}
	return all[:min(len(all), maxFound)]
}

// maxFound bounds the addresses that a node finds of itself.
const maxFound = 8

// peerAddresses is where other nodes reach this one: as configured, else the address it listens on, else those of this
// machine that are good beyond a link; of a machine that has none, loopback.
func (a *Agent) peerAddresses() []string {
	if len(a.cfg.PeerAdvertise) > 0 {
		return a.cfg.PeerAdvertise
	}
	at, ok := a.net.listensAt().(*net.UDPAddr)
	if !ok {
		return []string{a.net.listensAt().String()}
	}
	if !at.IP.IsUnspecified() {
		return []string{at.String()}
	}
	return withPort(ownAddresses(), at.Port)
}

// ownAddresses is the unicast addresses of this machine that others may reach, IPv4 first.
func ownAddresses() (all []netip.Addr) {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil // there may still be connections that this node opens
	}
	for _, f := range found {
		p, err := netip.ParsePrefix(f.String())
		if err == nil && p.Addr().IsGlobalUnicast() {
			all = append(all, p.Addr().Unmap())
		}
	}
	slices.SortStableFunc(all, func(x, y netip.Addr) int { return x.BitLen() - y.BitLen() })
	if len(all) == 0 {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return all[:min(len(all), maxFound)]
}

func withPort(addrs []netip.Addr, port int) (all []string) {
	for _, a := range addrs {
		all = append(all, net.JoinHostPort(a.String(), strconv.Itoa(port)))
	}
	return all
}
