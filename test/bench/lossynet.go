package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// badNet is three namespaces joined by test/badlink, which needs root, TUN and iproute2.
type badNet struct {
	bin      string
	instance string
	prefix   string
}

// oneWay is half of the round trip of the suite.
const oneWay = 25 * time.Millisecond

// hosts are the namespaces' names without the prefix; the addresses follow in order.
var hosts = [voters]string{"a", "b", "c"}

const lossySubnet = "10.79.0."

func (b *bench) badNet(ctx context.Context, build *builder) (*badNet, error) {
	bin, err := build.build(ctx, build.product, "./test/badlink", "badlink")
	if err != nil {
		return nil, err
	}
	pid := os.Getpid()
	n := &badNet{bin: bin, instance: fmt.Sprintf("bench-%d", pid), prefix: fmt.Sprintf("hf%d-", pid)}
	_, err = n.command(ctx, "up", "--hosts", strings.Join(hosts[:], ","), "--subnet", lossySubnet+"0/24", "--prefix", n.prefix,
		"--seed", fmt.Sprint(b.options.seed), "--delay", oneWay.String())
	if err != nil {
		return nil, fmt.Errorf("bad links between namespaces (this wants root, /dev/net/tun and iproute2): %w", err)
	}
	return n, nil
}

func (n *badNet) command(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, n.bin, append([]string{"-i", n.instance}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("badlink %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

func (n *badNet) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit) // when the run was interrupted too
	defer cancel()
	_, err := n.command(ctx, "down")
	return err
}

// set gives all links a loss, in badlink's words: "loss 5%" or "burst 5%/4"; "" is none.
func (n *badNet) set(ctx context.Context, loss string) error {
	if _, err := n.command(ctx, "set", "all", "loss", "0", "ge", "off"); err != nil {
		return err
	}
	name, value, ok := strings.Cut(loss, " ")
	if !ok {
		return nil
	}
	_, err := n.command(ctx, "set", "all", name, value)
	return err
}

// carried is what the links took, and how late the emulator was.
type carried struct {
	Links []struct {
		InPkts, InBytes, Lost float64
	}
	LateP99US float64
}

// stats returns what was carried since the last call.
func (n *badNet) stats(ctx context.Context) (c carried, err error) {
	out, err := n.command(ctx, "stats", "--json", "--reset")
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal([]byte(out), &c); err != nil {
		return c, fmt.Errorf("badlink stats: %w", err)
	}
	if len(c.Links) != voters*(voters-1) {
		return c, fmt.Errorf("badlink stats: %d links instead of %d", len(c.Links), voters*(voters-1))
	}
	return c, nil
}

func (c carried) sum() (packets, bytes, lost float64) {
	for _, l := range c.Links {
		packets += l.InPkts
		bytes += l.InBytes
		lost += l.Lost
	}
	return packets, bytes, lost
}

func address(host int, port int) string { return fmt.Sprintf("%s%d:%d", lossySubnet, host+1, port) }

// within makes a system run in a namespace; ready asks its address there.
func (n *badNet) within(host int, base *system, bin string, args []string, clientAddr string) *system {
	s := *base
	s.bin = "ip"
	s.args = func(string, int, int) []string {
		return append([]string{"netns", "exec", n.prefix + hosts[host], bin}, args...)
	}
	s.ready = func(ctx context.Context, _ string) error {
		c, err := n.dial(ctx, host, clientAddr)
		if err != nil {
			return err
		}
		return c.Close()
	}
	return &s
}

// dial connects from within a namespace.
func (n *badNet) dial(ctx context.Context, host int, addr string) (conn net.Conn, err error) {
	// The thread goes back to its namespace instead of ending: a server that was started from it would end with it.
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	there, err := os.Open(filepath.Join("/run/netns", n.prefix+hosts[host]))
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter namespace %s: %w", there.Name(), err)
	}
	defer func() {
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("leave namespace %s: %w", there.Name(), back)) // the thread stays locked: nothing else runs there
			return
		}
		runtime.UnlockOSThread()
	}()
	var d net.Dialer
	return d.DialContext(ctx, "tcp4", addr)
}

// dialer is dial for net/http.
func (n *badNet) dialer(host int) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) { return n.dial(ctx, host, addr) }
}

// client connects to a server in its own namespace, so that the link is not between them.
func (n *badNet) client(ctx context.Context, host int, addr string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{"http://" + addr}, Context: ctx, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return n.dial(ctx, host, addr)
		})},
	})
}

// etcdLeads tells whether a member leads, by etcd's own word.
func etcdLeads(c *clientv3.Client) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		s, err := c.Status(ctx, c.Endpoints()[0])
		if err != nil {
			return false, err
		}
		return s.Leader != 0 && s.Leader == s.Header.MemberId, nil
	}
}

// holdfastLeads is that for a member of ours.
func (n *badNet) holdfastLeads(host int, addr string) func(context.Context) (bool, error) {
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       n.dialer(host),
	}}
	return func(ctx context.Context) (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v1/status", nil)
		if err != nil {
			return false, err
		}
		res, err := c.Do(req)
		if err != nil {
			return false, err
		}
		defer res.Body.Close()
		var s memberStatus
		if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
			return false, err
		}
		return s.leads(), nil
	}
}

// lossyCluster is three members, each in its namespace, with a client to each.
type lossyCluster struct {
	members []*server
	clients []*clientv3.Client
	leads   []func(context.Context) (bool, error)
}

func (l *lossyCluster) end() error {
	var err error
	for _, c := range l.clients {
		err = errors.Join(err, c.Close())
	}
	killAll(l.members)
	return err
}

const (
	lossyClientPort = 2379
	lossyPeerPort   = 2380
)

// join makes a cluster of the built agent as a user does: one box founds it, the others join with its token. more are flags
// of each.
func (n *badNet) join(ctx context.Context, base *system, dir string, more []string) (members []*server, err error) {
	token := filepath.Join(dir, "token")
	for i := range voters {
		home := filepath.Join(dir, fmt.Sprint(i+1))
		if err := os.Mkdir(home, 0o700); err != nil {
			return members, err
		}
		addr := address(i, lossyClientPort)
		args := append([]string{"--data-dir", home, "--listen", "http://" + addr, "--insecure", "--peer-listen", address(i, lossyPeerPort)}, more...)
		if i > 0 {
			args = append(args, "--mode", "member", "--join", address(0, lossyPeerPort), "--token-file", token)
		}
		s := n.within(i, base, base.bin, args, addr)
		s.ready = func(ctx context.Context, _ string) error {
			_, err := n.fetch(ctx, i, addr, "/readyz")
			return err
		}
		m, err := s.start(ctx, home, watched{})
		if err != nil {
			return members, err
		}
		members = append(members, m)
		if i == 0 {
			if err := makeToken(ctx, home, "any", token); err != nil {
				return members, err
			}
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not %d voters within %v", voters, startLimit))
	defer cancel()
	get := func(ctx context.Context, addr, path string) ([]byte, error) { return n.fetch(ctx, 0, addr, path) }
	return members, because(ctx, awaitVoters(ctx, address(0, lossyClientPort), get, voters))
}

// start starts a cluster of the system; of the built agent, with more flags.
func (n *badNet) start(ctx context.Context, base *system, dir string, more []string) (*lossyCluster, error) {
	l := &lossyCluster{}
	var args [voters][]string
	if base.name != "holdfast" {
		var cluster []string
		for i := range voters {
			cluster = append(cluster, fmt.Sprintf("m%d=http://%s", i, address(i, lossyPeerPort)))
		}
		for i := range voters {
			client, peer := "http://"+address(i, lossyClientPort), "http://"+address(i, lossyPeerPort)
			// The heartbeat and the election timeout that etcd's guide asks for at this round trip are its defaults.
			args[i] = []string{
				"--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(dir, fmt.Sprint(i+1)),
				"--listen-client-urls", client, "--advertise-client-urls", client,
				"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", strings.Join(cluster, ","),
			}
		}
	}
	var err error
	if base.name == "holdfast" {
		l.members, err = n.join(ctx, base, dir, more)
	} else {
		l.members, err = startAll(ctx, func(i int) (*system, string) {
			return n.within(i, base, base.bin, args[i], address(i, lossyClientPort)), filepath.Join(dir, fmt.Sprint(i+1))
		})
	}
	if err != nil {
		return l, err
	}
	for i := range voters {
		c, err := n.client(ctx, i, address(i, lossyClientPort))
		if err != nil {
			return l, err
		}
		l.clients = append(l.clients, c)
		if base.name == "holdfast" {
			l.leads = append(l.leads, n.holdfastLeads(i, address(i, lossyClientPort)))
		} else {
			l.leads = append(l.leads, etcdLeads(c))
		}
	}
	return l, nil
}

// leader asks until a member says that it leads.
func (l *lossyCluster) leader(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("no leader within %v", startLimit))
	defer cancel()
	var last error
	for {
		for i, leads := range l.leads {
			yes, err := leads(ctx)
			if err != nil {
				last = err
			}
			if yes {
				return i, nil
			}
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			for _, m := range l.members {
				last = errors.Join(last, fmt.Errorf("%s said: %s", m.name, m.log))
			}
			return 0, errors.Join(err, last)
		}
	}
}
