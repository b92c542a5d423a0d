// Package cluster runs a cluster of members in one process, each with its disk, its raft log and its QUIC endpoint, on a
// simulated network: in virtual time (testing/synctest), where hours take seconds, or in real time.
//
//	c := cluster.New(t, cluster.Options{Members: 3, Seed: 1})
//	c.Start()
//	c.Isolate(c.Leader())
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/internal/bridge"
	"holdfast/internal/simnet"
	"holdfast/member"
	"holdfast/member/raftnet"
	"holdfast/transport"
)

// Options says what cluster to make. The zero value of each field but Seed is the default named.
type Options struct {
	Members int           // default 3
	Seed    uint64        // of the losses
	Delay   time.Duration // one way; default 5 ms
	Loss    float64       // share of packets, each way

	// Change edits the settings of each member. Nil: none.
	Change func(*member.Config)
}

// Cluster is a set of members: those that founded it, and those that have joined since.
type Cluster struct {
	Net *simnet.Net

	t     testing.TB
	opts  Options
	began time.Time
	ca    *transport.CA
	home  string
	nodes []*Node
}

// Node is a member, which may be stopped and started again.
type Node struct {
	*member.Member // nil before the first start

	Name    string
	Replica uint64
	Dialect int // of raftnet, from the next start on; 0: the newest

	c       *Cluster
	raft    *raftnet.Net
	lives   []raftnet.Life // the newest first
	metrics *prometheus.Registry
	id      *transport.Identity
	addr    string // what it says of itself
	joined  bool   // it is not a founder
	dir     string
	stop    func(kill bool)

	over    chan struct{} // closed when the member has ended
	failure error         // why, readable then
	failing bool          // it is expected to
}

const clusterID = 0x5eed

// New makes a cluster that nobody has started. It ends with the test.
func New(t testing.TB, opts Options) *Cluster {
	t.Helper()
	if opts.Members == 0 {
		opts.Members = 3
	}
	c := &Cluster{Net: simnet.New(t, opts.Seed), t: t, opts: opts, began: time.Now()}
	ca, err := transport.NewCA(fmt.Sprintf("%016x", clusterID))
	if err != nil {
		t.Fatal(err)
	}
	c.ca, c.home = ca, t.TempDir()
	for range opts.Members {
		c.add().Replica = uint64(len(c.nodes)) //nolint:gosec // few
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.Stop()
		}
	})
	return c
}

// add makes a node that nobody has started, with links to all others.
func (c *Cluster) add() *Node {
	c.t.Helper()
	n := &Node{Name: fmt.Sprintf("m%d", len(c.nodes)+1), c: c, id: identity(c.t, c.ca)}
	n.dir, n.addr = filepath.Join(c.home, n.Name), c.Net.Addr(n.Name)
	for _, o := range c.nodes {
		l := c.Net.Link(o.Name, n.Name).Loss(c.opts.Loss)
		if c.opts.Delay > 0 {
			l.Delay(c.opts.Delay)
		}
	}
	c.nodes = append(c.nodes, n)
	return n
}

// addresses is where others reach a node: nowhere, if it is behind a NAT, but over connections that it opens.
func (n *Node) addresses() []string {
	if n.addr == "" {
		return nil
	}
	return []string{n.addr}
}

// Join makes a node that the cluster takes in as a member, and starts it. It returns before it is ready.
func (c *Cluster) Join(at *Node) (*Node, error) {
	c.t.Helper()
	n := c.add()
	if err := n.Enter(at); err != nil {
		return n, err
	}
	n.Start()
	return n, nil
}

// Enter lets a member take the node in and makes its dir that of the member that it is to be.
func (n *Node) Enter(at *Node) error {
	a, err := at.Admit(n.c.t.Context(), member.Applicant{Node: bridge.MemberNode(n.id.Node()), Name: n.Name, Addresses: n.addresses()})
	if err != nil {
		return err
	}
	n.Replica, n.joined = a.Replica, true
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	return member.Stage(n.dir, a)
}

func identity(t testing.TB, ca *transport.CA) *transport.Identity {
	t.Helper()
	id, err := transport.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(id.PublicKey(), transport.Grant{Node: id.Node(), Role: transport.Member, Life: 1000 * time.Hour}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if id, err = id.WithCertificate(cert, ca.Certificate()); err != nil {
		t.Fatal(err)
	}
	return id
}

// Start starts all members and waits until they are ready and each has entered itself in the list of members.
func (c *Cluster) Start() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.Start()
	}
	for _, n := range c.nodes {
		n.AwaitReady(time.Minute)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		waiting := 0
		for _, n := range c.nodes {
			r := n.Roster()
			if len(r.Seats) < len(c.nodes) || slices.ContainsFunc(r.Seats, func(s member.Seat) bool { return !s.CaughtUp }) {
				waiting++
			}
		}
		if waiting == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%d members do not know all members within a minute", waiting)
		}
	}
}

// Nodes is every node, in the order of their replica ids.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// Leader waits for a member that leads and that most others take for the leader.
func (c *Cluster) Leader() *Node {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		votes, running := map[uint64]int{}, 0
		for _, n := range c.nodes {
			if n.stop != nil {
				running++
				votes[n.Status().Leader]++
			}
		}
		for replica, count := range votes {
			if n := c.byReplica(replica); n != nil && count > running/2 && n.Status().Leader == replica {
				return n
			}
		}
	}
	c.t.Fatal("no leader within 30 s")
	return nil
}

// byReplica is the node that runs as a replica, nil if none does.
func (c *Cluster) byReplica(replica uint64) *Node {
	for _, n := range c.nodes {
		if n.stop != nil && n.Replica == replica {
			return n
		}
	}
	return nil
}

// Others is every node but n.
func (c *Cluster) Others(n *Node) (others []*Node) {
	for _, o := range c.nodes {
		if o != n {
			others = append(others, o)
		}
	}
	return others
}

// wire sums what went over all links.
func (c *Cluster) wire() (sum simnet.Stats) {
	for _, a := range c.nodes {
		for _, b := range c.nodes[a.Replica:] {
			s := c.Net.Link(a.Name, b.Name).Stats()
			sum.Packets += s.Packets
			sum.Bytes += s.Bytes + 28*s.Packets
			sum.Lost += s.Lost
		}
	}
	return sum
}

// Isolate cuts all links of a node.
func (c *Cluster) Isolate(n *Node) {
	for _, o := range c.Others(n) {
		c.Net.Cut(n.Name, o.Name)
	}
}

// Heal mends all links of a node.
func (c *Cluster) Heal(n *Node) {
	for _, o := range c.Others(n) {
		c.Net.Heal(n.Name, o.Name)
	}
}

// Start starts a node that does not run.
func (n *Node) Start() {
	t := n.c.t
	t.Helper()
	if n.stop != nil {
		t.Fatalf("%s runs already", n.Name)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})).With("node", n.Name)
	conn := n.c.Net.Node(n.Name)
	ep, err := transport.New(transport.Config{
		Conn: conn, Identity: func() *transport.Identity { return n.id }, Resolve: n.c.Net.Resolve, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.metrics = prometheus.NewRegistry()
	n.lives = append([]raftnet.Life{raftnet.NewLife()}, n.lives...)
	raft, err := raftnet.New(raftnet.Options{Cluster: clusterID, Node: bridge.MemberNode(n.id.Node()), Replica: n.Replica, Lives: n.lives,
		Copied: func(err error) { t.Errorf("%s: %v", n.Name, err) }, Spool: filepath.Join(n.dir, "spool"),
		Log: log, Metrics: n.metrics, Dialect: n.Dialect})
	if err != nil {
		t.Fatal(err)
	}
	n.raft = raft
	pool, err := bridge.Members(ep, raft, transport.PoolOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := member.Config{
		Dir: n.dir, ClusterID: clusterID, ReplicaID: n.Replica, NodeID: bridge.MemberNode(n.id.Node()),
		Name: n.Name, Addresses: n.addresses(),
		Log: log, Metrics: n.metrics, Network: raft, DiskReserve: -1, Clock: func() time.Duration { return time.Since(n.c.began) },
	}
	addrs := map[string][]string{}
	if !n.joined {
		cfg.Peers = map[uint64]string{}
		for _, o := range n.c.nodes[:n.c.opts.Members] {
			addrs[o.id.Node()] = []string{o.addr}
			cfg.Peers[o.Replica] = bridge.MemberNode(o.id.Node())
		}
	}
	cfg.OnRoster = func(r member.Roster) {
		known := maps.Clone(addrs)
		if len(r.Seats) > 0 {
			known = map[string][]string{}
		}
		for _, s := range r.Seats {
			known[bridge.TransportNode(s.Node)] = s.Addresses
		}
		pool.Set(known)
	}
	if n.c.opts.Change != nil {
		n.c.opts.Change(&cfg)
	}
	pool.Set(addrs)
	if n.Member, err = member.Open(cfg); err != nil {
		_ = conn.Close()
		t.Fatalf("open %s: %v", n.Name, err)
	}
	n.over, n.failure = make(chan struct{}), nil
	over := n.over
	runMember := func(ctx context.Context) error {
		defer close(over)
		n.failure = n.Run(ctx)
		return n.failure
	}
	endMember, endPool, endNet := run(t, n.Name, runMember), run(t, n.Name, pool.Run), run(t, n.Name, ep.Run)
	n.stop = func(kill bool) {
		if kill {
			_ = conn.Close()
		}
		endMember(n.failing)
		endPool(kill)
		endNet(kill)
		_ = conn.Close()
	}
}

// run runs a part until it is ended, which waits for it.
func run(t testing.TB, name string, part func(context.Context) error) (end func(failed bool)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var err error
	wg.Go(func() { err = part(ctx) })
	return func(failed bool) {
		cancel()
		wg.Wait()
		if err != nil && !failed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Wipe takes everything from a node that does not run, as a new disk does.
func (n *Node) Wipe() {
	if err := os.RemoveAll(n.dir); err != nil {
		n.c.t.Fatal(err)
	}
}

// Ended waits until the member of a node that runs has ended by itself, and returns why.
func (n *Node) Ended(limit time.Duration) error {
	n.c.t.Helper()
	select {
	case <-n.over:
		return n.failure
	case <-time.After(limit):
		n.c.t.Fatalf("%s still runs after %s", n.Name, limit)
		return nil
	}
}

// Stop stops a node, if it runs; the others are told.
func (n *Node) Stop() { n.end(false) }

// Kill stops a node as a power cut looks to the others: it is silent from one moment to the next.
func (n *Node) Kill() { n.end(true) }

func (n *Node) end(kill bool) {
	if n.stop != nil {
		n.stop(kill)
		n.stop = nil
	}
}

// Chunks is how many chunks of snapshots the node has sent since it started.
func (n *Node) Chunks() float64 { return n.counted("holdfast_raftnet_snapshot_chunks_sent_total") }

// counted reads a counter of the node, over all labels, or those series of it that have one of the values named.
func (n *Node) counted(name string, values ...string) (sum float64) {
	families, err := n.metrics.Gather()
	if err != nil {
		n.c.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			named := len(values) == 0
			for _, l := range m.GetLabel() {
				named = named || slices.Contains(values, l.GetValue())
			}
			if f.GetName() == name && named {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// value reads a gauge of the node that has no labels.
func (n *Node) value(name string) float64 {
	families, err := n.metrics.Gather()
	if err != nil {
		n.c.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	n.c.t.Fatalf("%s has no %s", n.Name, name)
	return 0
}

// AwaitReady waits until the node is ready.
func (n *Node) AwaitReady(limit time.Duration) {
	n.c.t.Helper()
	select {
	case <-n.Ready():
	case <-time.After(limit):
		n.c.t.Fatalf("%s was not ready within %s", n.Name, limit)
	}
}

// AwaitSame waits until all nodes that run hold the same, and checks that by a hash over it.
func (c *Cluster) AwaitSame(limit time.Duration) {
	c.t.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = c.compare(); err == nil {
			return
		}
	}
	c.t.Fatalf("the members do not agree within %s: %v", limit, err)
}

func (c *Cluster) compare() error {
	type state struct {
		hash              uint32
		revision, compact int64
	}
	var first *state
	for _, n := range c.nodes {
		if n.stop == nil {
			continue
		}
		var s state
		h, err := n.Hash(c.t.Context(), 0)
		if err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		s.hash, s.revision, s.compact = h.Sum, h.Revision, h.Compact
		if first == nil {
			first = &s
		}
		if s != *first {
			return fmt.Errorf("%s has %+v, another %+v", n.Name, s, *first)
		}
	}
	if first == nil {
		return errors.New("no member runs")
	}
	return nil
}
