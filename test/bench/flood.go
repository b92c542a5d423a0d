package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The floods of the suite door. The server is in a network namespace of its own with three addresses, none of them loopback, where a
// client may have all. The flood comes from one of them, in a process of its own that gets a core only while nobody else
// wants it (SCHED_IDLE): elsewhere it would have cores of its own. From another one a client writes at a pace of its own,
// over connections that it keeps.
//
// Windows without and with the flood take turns at one server, as many of each as there are rounds, and the p99 is of all
// samples of a side together: that of one window is decided by the few PUTs that met what a disk does now and then. The p99
// under the flood over that without is to be floodMost at most.
const (
	floodServer = "10.99.0.1"
	floodFrom   = "10.99.0.2"
	floodCalm   = "10.99.0.3"

	calmClients = 4
	calmEvery   = 20 * time.Millisecond // of each client: 200 PUTs a second in all
	calmName    = "quiet"

	floodMost  = 5 // times the quiet p99
	healthPace = 50 * time.Millisecond
	floodBegun = 10 * time.Second // for its first hits
)

// runFloods measures PUTs and health under each flood.
func (b *bench) runFloods(ctx context.Context) error {
	if os.Geteuid() != 0 {
		b.progress("the floods want root and a network namespace, and are left out")
		return nil
	}
	var list []flood
	for _, f := range floods {
		if b.only == "" || strings.Contains(f.name, b.only) {
			list = append(list, f)
		}
	}
	var failed []error // told once the rest is measured
	for _, f := range list {
		if err := b.flooded(ctx, f); err != nil {
			b.progress("**%v**", err)
			failed = append(failed, fmt.Errorf("flood of %s: %w", f.name, err))
		}
		if ctx.Err() != nil {
			return errors.Join(failed...)
		}
	}
	var rows [][]string
	var claims []claim
	for _, f := range list {
		under, quiet := floodCell(f.name), floodCell(f.name+", "+calmName)
		get := b.report.figure
		spread := func(c cell) string {
			p := figureOf(b.report.series(c, vP99))
			return fmt.Sprintf("%s (%.2f to %.2f)", get(pooled(c), vP99, hundredth), p.low, p.high)
		}
		rows = append(rows, []string{
			f.name, get(under, "hits", whole), get(pooled(quiet), vP50, hundredth), spread(quiet), get(pooled(under), vP50, hundredth), spread(under),
			get(pooled(under), "samples", whole), get(pooled(under), "health_p99_ms", hundredth), get(pooled(under), "health_max_ms", hundredth), get(pooled(under), "health_failed", whole),
			get(quiet, "server_cores", hundredth), get(under, "server_cores", hundredth), get(under, "flood_cores", hundredth), get(under, "client_cores", hundredth),
		})
		c := claim{what: "p99 under " + f.name + " over quiet", num: pooled(under), den: pooled(quiet), value: vP99}
		if !f.free {
			c.target, c.must, c.less = floodMost, floodMost, true
		}
		claims = append(claims, c)
	}
	b.report.table(fmt.Sprintf("PUTs of a client that behaves, 200 a second from when each was due, and /livez on the socket, while another address floods; ms, p99 of all windows together and of each (on %d cores)", runtime.NumCPU()),
		[]string{"flood of", "a second", "quiet p50", "p99 (windows)", "flooded p50", "p99 (windows)", "PUTs", "health p99", "most", "failed", "cores: server, quiet", "flooded", "flood", "client"}, rows)
	b.report.claims("Floods: ratios", claims)
	return errors.Join(failed...)
}

func floodCell(name string) cell { return cell{"door", "flood", name, calmClients} }

// pooled is for the values of all windows of a cell together.
func pooled(c cell) cell {
	c.what += ", all windows"
	return c
}

// flooded measures a fresh server, quiet and under one flood in turns.
func (b *bench) flooded(ctx context.Context, f flood) (err error) {
	dir, err := b.tempDir()
	if err != nil {
		return err
	}
	defer b.discard(dir)
	v, err := b.startFlooded(ctx, dir, f.args)
	if err != nil {
		return err
	}
	defer v.kill()
	m := &floodMeter{bench: b, server: v, health: newHealthProbe(filepath.Join(dir, "agent.sock")), took: map[cell][]time.Duration{}}
	under, quiet := floodCell(f.name), floodCell(f.name+", "+calmName)
	for round := range b.options.rounds {
		b.progress("flood, round %d of %d: %s", round+1, b.options.rounds, f.name)
		values, err := m.window(ctx, quiet)
		if err != nil {
			return fmt.Errorf("quiet: %w", err)
		}
		b.report.add(quiet, round, values)
		if values, err = m.flooded(ctx, f, under); err != nil {
			return err
		}
		b.report.add(under, round, values)
	}
	for _, c := range []cell{quiet, under} {
		took := m.took[c]
		slices.Sort(took)
		values := map[string]float64{"samples": float64(len(took)), vP50: ms(quantile(took, 0.5)), vP99: ms(quantile(took, 0.99)), "max_ms": ms(quantile(took, 1))}
		if c == under {
			slices.Sort(m.health.took)
			values["health_p99_ms"], values["health_max_ms"], values["health_failed"] = ms(quantile(m.health.took, 0.99)), ms(quantile(m.health.took, 1)), float64(m.health.failed)
		}
		b.report.add(pooled(c), 0, values)
	}
	return nil
}

// floodMeter takes the windows of one server.
type floodMeter struct {
	*bench
	server *server
	health *healthProbe
	took   map[cell][]time.Duration // of the PUTs of all windows
}

// window has the client that behaves write for a while.
func (m *floodMeter) window(ctx context.Context, c cell) (map[string]float64, error) {
	calm := contender{name: "holdfast", dial: func(context.Context, string, int) (dialer, error) {
		return dialEach(func(context.Context) (client, error) {
			conn, err := dialWithin(m.server.pid, floodCalm, net.JoinHostPort(floodServer, floodPlain))
			if err != nil {
				return nil, err
			}
			return restClient{&httpConn{conn: conn, in: bufio.NewReaderSize(conn, 4<<10)}}, nil
		}), nil
	}}
	out, err := drive(ctx, m.options, m.server, calm, load{clients: calmClients, warmup: m.warmup, duration: m.duration, every: calmEvery, due: true, do: put})
	if err != nil {
		return nil, err
	}
	m.took[c] = append(m.took[c], out.took...)
	values, length := out.values(), out.end.Sub(out.begin).Seconds()
	values["server_cores"], values["client_cores"] = out.window.cpu.Seconds()/length, out.self.Seconds()/length
	return values, nil
}

// flooded is a window under a flood, of health too.
func (m *floodMeter) flooded(ctx context.Context, f flood, c cell) (map[string]float64, error) {
	g, err := startFlood(ctx, m.server.pid, f.name)
	if err != nil {
		return nil, err
	}
	defer g.kill()
	watching, stop := context.WithCancel(ctx)
	var probing sync.WaitGroup
	probing.Go(func() { m.health.run(watching) })
	values, err := m.window(ctx, c)
	stop()
	probing.Wait()
	if err != nil {
		return nil, err
	}
	values["hits"], values["flood_cores"], err = g.pace()
	return values, err
}

// The ports of the server in its namespace, where nobody else is.
const (
	floodPlain  = "2379"
	floodSecure = "2378"
	floodPeer   = "2380"
)

// startFlooded starts a member in a namespace, with http and https where clients reach it.
func (b *bench) startFlooded(ctx context.Context, dir string, more []string) (*server, error) {
	s := *b.system("holdfast")
	agent := s.bin
	script := "ip link set lo up"
	for _, addr := range []string{floodServer, floodFrom, floodCalm} {
		script += " && ip addr add " + addr + "/24 dev lo"
	}
	s.bin = "unshare"
	s.args = func(dir string, _, _ int) []string {
		return slices.Concat([]string{"--net", "sh", "-c", script + ` && exec "$@"`, "sh", agent, "--data-dir", dir, "--insecure", "--tls-auto",
			"--listen", "http://" + net.JoinHostPort(floodServer, floodPlain), "--listen", "https://" + net.JoinHostPort(floodServer, floodSecure),
			"--peer-listen", net.JoinHostPort(floodServer, floodPeer)}, more)
	}
	s.ready = func(ctx context.Context, _ string) error {
		return newHealthProbe(filepath.Join(dir, "agent.sock")).get(ctx, "/readyz")
	}
	v, err := s.start(ctx, dir, watched{})
	if err != nil {
		return nil, err
	}
	for { // the certificate comes once the cluster has its CA
		c, err := dialWithin(v.pid, floodCalm, net.JoinHostPort(floodServer, floodSecure))
		if err == nil {
			if err = handshake(c); err == nil {
				return v, nil
			}
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			v.kill()
			return nil, err
		}
	}
}

// dialWithin opens a connection in the network namespace of a process. The thread goes back to its own afterwards: if it ended
// instead, the servers that were started on it would be killed (Pdeathsig).
func dialWithin(pid int, from, to string) (c net.Conn, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		return nil, err
	}
	defer home.Close()
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter the network namespace of %d: %w", pid, err)
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	c, err = d.DialContext(context.Background(), "tcp", to)
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		panic(fmt.Sprintf("this thread cannot leave the network namespace of %d: %v", pid, back)) // nothing would work any more
	}
	return c, err
}

// healthProbe asks a socket for health.
type healthProbe struct {
	client *http.Client
	took   []time.Duration
	failed int
}

func newHealthProbe(socket string) *healthProbe {
	return &healthProbe{client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}}
}

func (p *healthProbe) get(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, http.NoBody)
	if err != nil {
		return err
	}
	res, err := p.client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	err = errors.Join(err, res.Body.Close())
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	return err
}

// run asks until ctx ends.
func (p *healthProbe) run(ctx context.Context) {
	for sleep(ctx, healthPace) == nil {
		began := time.Now()
		err := p.get(ctx, "/livez")
		switch {
		case ctx.Err() != nil:
		case err != nil:
			p.failed++
		default:
			p.took = append(p.took, time.Since(began))
		}
	}
}

// flooding is the process of a flood.
type flooding struct {
	cmd  *exec.Cmd
	said *tail
	hits atomic.Int64
	done chan struct{}

	begun    time.Time
	atBegin  int64
	cpuBegin time.Duration
}

// startFlood starts one in the namespace of a server, and returns when it hits.
func startFlood(ctx context.Context, pid int, name string) (*flooding, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	g := &flooding{said: &tail{}, done: make(chan struct{})}
	g.cmd = exec.CommandContext(ctx, "nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pid), "chrt", "--idle", "0", self, floodArg, name, floodServer)
	g.cmd.Stderr = g.said
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	counts, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a flood: %w", err)
	}
	go func() {
		defer close(g.done)
		for lines := bufio.NewScanner(counts); lines.Scan(); {
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				g.hits.Store(n)
			}
		}
		_ = g.cmd.Wait() // it is killed
	}()
	for deadline := time.Now().Add(floodBegun); g.hits.Load() == 0; {
		if time.Now().After(deadline) {
			g.kill()
			return nil, fmt.Errorf("it has not begun within %v: %s", floodBegun, g.said)
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			g.kill()
			return nil, err
		}
	}
	c, err := readCounters(g.cmd.Process.Pid)
	if err != nil {
		g.kill()
		return nil, err
	}
	g.begun, g.atBegin, g.cpuBegin = time.Now(), g.hits.Load(), c.cpu
	return g, nil
}

// pace is how many hits a second there were, and how many cores they took here.
func (g *flooding) pace() (hits, cores float64, err error) {
	select {
	case <-g.done:
		return 0, 0, fmt.Errorf("it has ended by itself: %s", g.said)
	default:
	}
	c, err := readCounters(g.cmd.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	took := time.Since(g.begun).Seconds()
	return float64(g.hits.Load()-g.atBegin) / took, (c.cpu - g.cpuBegin).Seconds() / took, nil
}

func (g *flooding) kill() {
	_ = g.cmd.Process.Kill() // it may have ended
	<-g.done
}
