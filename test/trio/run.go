package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"holdfast/api"
	"holdfast/api/etcd"
	"holdfast/api/ops"
	"holdfast/api/rest"
	"holdfast/auth"
	"holdfast/internal/bridge"
	"holdfast/internal/gcpace"
	"holdfast/internal/sniff"
	"holdfast/member"
	"holdfast/member/raftnet"
	"holdfast/transport"
)

// door is where clients are served; over TLS if it has a certificate.
type door struct{ addr, cert, key string }

// url is where clients find it, as they are told by whichever member they ask.
func (d door) url() string {
	if d.cert != "" {
		return "https://" + d.addr
	}
	return "http://" + d.addr
}

func (d door) open() (net.Listener, error) {
	l, err := net.Listen("tcp", d.addr)
	if err != nil || d.cert == "" {
		return l, err
	}
	cert, err := tls.LoadX509KeyPair(d.cert, d.key)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}), nil
}

// run runs the founder in dir until ctx ends.
func run(ctx context.Context, dir string, d door) error {
	p, err := loadPlan(dir)
	if err != nil {
		return err
	}
	id, err := transport.LoadIdentity(dir, nil)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	conn, err := net.ListenPacket("udp", p.Founders[p.Replica-1].Peer)
	if err != nil {
		return err
	}
	defer conn.Close()
	ep, err := transport.New(transport.Config{Conn: conn, Identity: func() *transport.Identity { return id }, Log: log})
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	raft, err := raftnet.New(raftnet.Options{Cluster: p.Cluster, Node: bridge.MemberNode(id.Node()),
		Spool: filepath.Join(dir, "member", "spool"), Log: log, Metrics: registry})
	if err != nil {
		return err
	}
	pool, err := bridge.Members(ep, raft, transport.PoolOptions{})
	if err != nil {
		return err
	}
	cfg := member.Config{
		Dir: filepath.Join(dir, "member"), ClusterID: p.Cluster, ReplicaID: p.Replica, NodeID: bridge.MemberNode(id.Node()),
		Peers: map[uint64]string{}, Log: log, Metrics: registry, Network: raft, History: 10 * time.Minute,
		Name: fmt.Sprintf("m%d", p.Replica), Addresses: []string{p.Founders[p.Replica-1].Peer}, ClientURLs: []string{d.url()},
	}
	addrs := map[string][]string{}
	for i, f := range p.Founders {
		cfg.Peers[uint64(i+1)] = f.Node
		addrs[bridge.TransportNode(f.Node)] = []string{f.Peer}
	}
	pool.Set(addrs)
	m, err := member.Open(cfg)
	if err != nil {
		return err
	}
	door, err := d.open()
	if err != nil {
		return errors.Join(err, m.Close())
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.Run(ctx) })
	g.Go(func() error { return pool.Run(ctx) })
	g.Go(func() error { return ep.Run(ctx) })
	g.Go(func() error { return serve(ctx, door, m, registry) })
	g.Go(func() error {
		gcpace.Run(ctx, gcpace.Room(gcpace.Memory())) // as the agent does
		return nil
	})
	return g.Wait()
}

// drain is how long requests under way have at the end.
const drain = 5 * time.Second

// serve answers clients as the agent does, on one door: REST, etcd's API and health.
func serve(ctx context.Context, door net.Listener, m *member.Member, registry *prometheus.Registry) error {
	report := reporter{m}
	passwords := auth.NewPasswords(time.Now, 0)
	guard := auth.NewGuard(m, m.PolicySource, auth.Options{Passwords: passwords})
	devices := rest.New(rest.Options{Backend: guard, Reporter: report, Metrics: registry})
	operators := ops.New(ops.Options{Reporter: report, Gatherer: registry})
	calls := etcd.New(etcd.Options{
		Backend: guard, Hash: passwords.Hash, Reporter: report, Metrics: registry, ClientURLs: []string{"http://" + door.Addr().String()},
		Admin: func() api.Admin { return m },
	})
	split := sniff.New(door, drain, nil, nil)
	srv := &http.Server{
		ReadHeaderTimeout: drain,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case ops.Owns(r.URL.Path):
				operators.ServeHTTP(w, r)
			case etcd.Owns(r.URL.Path), etcd.IsCall(r):
				calls.ServeHTTP(w, r)
			default:
				devices.ServeHTTP(w, r)
			}
		}),
	}
	srv.RegisterOnShutdown(devices.EndWatches)
	var g errgroup.Group
	g.Go(func() error { split.Run(); return nil })
	g.Go(func() error { return calls.Serve(split.GRPC()) })
	g.Go(func() error {
		if err := srv.Serve(split.HTTP()); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	<-ctx.Done()
	end, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	calls.EndStreams()
	calls.Close(end)
	_ = srv.Shutdown(end) // what still runs is cut off
	return errors.Join(g.Wait(), ignoreClosed(door.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// reporter shows a member as the agent's status does, as far as anyone asks here.
type reporter struct{ *member.Member }

func (r reporter) Report() api.Status {
	s := r.Status()
	out := api.Status{Mode: "member", State: "serving", Revision: s.Revision, Member: &api.MemberStatus{
		ReplicaID: strconv.FormatUint(s.ReplicaID, 10), Term: s.Term, Applied: s.Applied,
	}}
	if s.Leader != 0 {
		out.Member.Leader = strconv.FormatUint(s.Leader, 10)
	}
	select {
	case <-r.Ready():
		out.Ready = true
	default:
		out.State, out.Reason = "replaying", "the log is being replayed"
	}
	return out
}
