package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// voters is how many members the clusters of the suite have.
const voters = 3

// runThree measures writes through the leader of three members on loopback, beside as many of etcd's. Each cell has an
// empty cluster; CPU and bytes are those of all its members. No cluster is measured while another runs.
func runThree(ctx context.Context, b *bench) error {
	list, err := b.contenders(ctx)
	if err != nil {
		return err
	}
	var trio string
	var fit []contender
	for _, c := range list {
		switch c.name {
		case hfREST, hfGRPC, hfJSON, etcdGRPC, etcdJSON:
			fit = append(fit, c)
		}
	}
	if b.system("holdfast") != nil {
		build, err := newBuilder(b.cache, b.product)
		if err != nil {
			return err
		}
		if trio, err = build.build(ctx, build.product, "./test/trio", "trio"); err != nil {
			return err
		}
	}
	err = b.rounds(ctx, fit, func(round, clients int, c contender) error {
		dir, err := b.tempDir()
		if err != nil {
			return err
		}
		defer b.discard(dir)
		start := etcdThree
		if c.system.name == "holdfast" {
			start = holdfastThree
		}
		members, leader, err := start(ctx, c.system, trio, dir)
		defer killAll(members)
		if err != nil {
			return err
		}
		v := members[leader]
		for i, m := range members {
			if i != leader {
				v.beside = append(v.beside, m)
			}
		}
		out, err := drive(ctx, b.options, v, c, load{clients: clients, warmup: b.warmup, duration: b.duration, do: put})
		if err != nil {
			return err
		}
		b.report.add(cell{"three", "put", c.name, clients}, round, out.values())
		return nil
	})
	if err != nil {
		return err
	}
	b.loadTable("PUT, three members, through the leader (server CPU of all three)", "three", "put", fit)
	var claims []claim
	for _, n := range b.clients {
		for _, pair := range []struct {
			what      string
			ours, his string
		}{{"gRPC", hfGRPC, etcdGRPC}, {"REST over etcd's gRPC", hfREST, etcdGRPC}, {"REST over etcd's JSON gateway", hfREST, etcdJSON}} {
			num, den := cell{"three", "put", pair.ours, n}, cell{"three", "put", pair.his, n}
			for _, figure := range []struct{ what, value string }{{"rate", vRate}, {"p99", vP99}, {"server CPU", vCPU}} {
				claims = append(claims, claim{what: figure.what + ", " + pair.what + ", " + clients(n), num: num, den: den, value: figure.value})
			}
		}
	}
	b.report.claims("PUT, three members: ratios", claims)
	return nil
}

// holdfastThree starts three members and returns them with the place of their leader.
func holdfastThree(ctx context.Context, base *system, trio, dir string) ([]*server, int, error) {
	found := []string{"found", dir}
	for range voters {
		_, peer, err := freePorts()
		if err != nil {
			return nil, 0, err
		}
		found = append(found, loopback(peer))
	}
	if out, err := exec.CommandContext(ctx, trio, found...).CombinedOutput(); err != nil {
		return nil, 0, fmt.Errorf("found a cluster: %w: %s", err, out)
	}
	members, err := startAll(ctx, func(i int) (*system, string) {
		s := *base
		s.bin = trio
		s.args = func(dir string, port, _ int) []string { return []string{"run", dir, loopback(port)} }
		return &s, filepath.Join(dir, strconv.Itoa(i+1))
	})
	if err != nil {
		return members, 0, err
	}
	leader, err := awaitLeader(ctx, members, func(ctx context.Context, m *server) (bool, error) {
		body, err := fetch(ctx, m.addr, "/v1/status")
		if err != nil {
			return false, err
		}
		var s memberStatus
		err = json.Unmarshal(body, &s)
		return s.leads(), err
	})
	return members, leader, err
}

// memberStatus is what of /v1/status tells who leads.
type memberStatus struct {
	Member struct {
		Replica string `json:"replica_id"`
		Leader  string `json:"leader"`
	} `json:"member"`
}

func (s memberStatus) leads() bool {
	return s.Member.Leader != "" && s.Member.Leader == s.Member.Replica
}

// etcdThree starts three members of etcd and returns them with the place of their leader.
func etcdThree(ctx context.Context, base *system, _, dir string) ([]*server, int, error) {
	var peers [voters]int
	cluster := ""
	for i := range peers {
		var err error
		if _, peers[i], err = freePorts(); err != nil {
			return nil, 0, err
		}
		if i > 0 {
			cluster += ","
		}
		cluster += fmt.Sprintf("m%d=%s", i, url(peers[i]))
	}
	members, err := startAll(ctx, func(i int) (*system, string) {
		s := *base
		s.args = func(dir string, port, _ int) []string {
			return []string{
				"--name", fmt.Sprintf("m%d", i), "--data-dir", dir,
				"--listen-client-urls", url(port), "--advertise-client-urls", url(port),
				"--listen-peer-urls", url(peers[i]), "--initial-advertise-peer-urls", url(peers[i]),
				"--initial-cluster", cluster,
			}
		}
		return &s, filepath.Join(dir, strconv.Itoa(i+1))
	})
	if err != nil {
		return members, 0, err
	}
	leader, err := awaitLeader(ctx, members, func(ctx context.Context, m *server) (leads bool, err error) {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + m.addr}, Context: ctx, Logger: zap.NewNop()})
		if err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		s, err := c.Status(ctx, "http://"+m.addr)
		if err != nil {
			return false, err
		}
		return s.Leader != 0 && s.Leader == s.Header.MemberId, nil
	})
	return members, leader, err
}

// startAll starts the members at once: none is ready without the others. What has started is returned with an error too.
func startAll(ctx context.Context, member func(i int) (s *system, dir string)) ([]*server, error) {
	all := make([]*server, voters)
	var g errgroup.Group
	for i := range all {
		g.Go(func() (err error) {
			s, dir := member(i)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			all[i], err = s.start(ctx, dir, watched{})
			return err
		})
	}
	err := g.Wait()
	return all, err
}

func killAll(members []*server) {
	for _, m := range members {
		if m != nil {
			m.kill()
		}
	}
}

// awaitLeader asks until one of the members says that it leads.
func awaitLeader(ctx context.Context, members []*server, leads func(context.Context, *server) (bool, error)) (int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("no leader within %v", startLimit))
	defer cancel()
	for {
		for i, m := range members {
			yes, err := leads(ctx, m)
			if err != nil {
				return 0, because(ctx, fmt.Errorf("ask %s who leads: %w", m.addr, err))
			}
			if yes {
				return i, nil
			}
		}
		if err := sleepUntil(ctx, time.Now().Add(50*time.Millisecond)); err != nil {
			return 0, because(ctx, err)
		}
	}
}
