package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// The figures of the suite.
const (
	electionTimeout = time.Second // member's, the T of the targets
	vGap            = "gap_ms"
	vTook           = "took_ms"
	vJoin           = "join_s"
)

const (
	probeEvery = 10 * time.Millisecond // a write is sent, whatever became of those before

	joinMB    = 100
	joinRate  = 20 // Mbit/s
	joinLoss  = "2%"
	joinValue = 64 << 10
	joinLimit = 5 * time.Minute
)

// runSwitch measures what a change costs that a cluster goes through by itself: from the kill -9 of the leader to the next
// commit, the time without an acknowledgement while boxes change their mode, and how long a box takes to join over a slow
// link that loses packets. All of it with the built agent, put together as an operator does.
func runSwitch(ctx context.Context, b *bench) error {
	base := b.system("holdfast")
	if base == nil {
		return errors.New("it measures the agent alone: leave holdfast in -systems")
	}
	for round := range b.options.rounds {
		for _, one := range []struct {
			what string
			run  func(context.Context, *agents) (map[string]float64, error)
		}{{killed, b.killLeader}, {"promote", b.changeMode("promote")}, {"demote", b.changeMode("demote")}} {
			if !strings.Contains(one.what, b.only) {
				continue
			}
			b.progress("%s, round %d of %d", one.what, round+1, b.options.rounds)
			values, err := b.withAgents(ctx, base, one.run)
			if err != nil {
				return fmt.Errorf("%s: %w", one.what, because(ctx, err))
			}
			b.report.add(cell{"switch", one.what, base.name, 0}, round, values)
		}
		if strings.Contains(joined, b.only) {
			b.progress("%s, round %d of %d", joined, round+1, b.options.rounds)
			values, err := b.joinSlowly(ctx, base)
			if err != nil {
				return fmt.Errorf("%s: %w", joined, because(ctx, err))
			}
			b.report.add(cell{"switch", joined, base.name, 0}, round, values)
		}
	}
	b.switchTables(base.name)
	return nil
}

// The things measured.
const (
	killed = "kill -9 of the leader to the next commit"
	joined = "join"
)

func (b *bench) switchTables(name string) {
	of := func(what string) cell { return cell{"switch", what, name, 0} }
	var rows [][]string
	for _, what := range []string{killed, "promote", "demote"} {
		if len(b.report.series(of(what), vGap)) > 0 {
			rows = append(rows, []string{what, b.ranged(of(what), vGap, whole), b.report.figure(of(what), vTook, whole), b.report.figure(of(what), "unknown", whole)})
		}
	}
	b.report.table("Three members on loopback: ms without an acknowledgement", []string{"change", "longest gap", "the change took", "answers that left it open"}, rows)
	if gaps := b.report.series(of(killed), vGap); len(gaps) > 0 {
		got := figureOf(gaps).median / ms(electionTimeout)
		k := claim{target: 1.5, must: 2, less: true}
		b.report.print("\n%s: %.2f T (T is %v), wanted %s: %s\n", killed, got, electionTimeout, k.wanted(), k.verdict(got))
	}
	if len(b.report.series(of(joined), vJoin)) > 0 {
		floor := joinMB * 8 / float64(joinRate)
		b.report.table(fmt.Sprintf("A box joins a member with %d MB over %d Mbit/s with %s lost, 50 ms", joinMB, joinRate, joinLoss),
			[]string{"seconds to a voter", "the bytes alone take", "MB on the wire"},
			[][]string{{b.ranged(of(joined), vJoin, hundredth), hundredth(floor), b.report.figure(of(joined), "wire_mb", whole)}})
	}
}

// agents is a cluster of built agents.
type agents struct {
	bin     string
	members []*server
}

// withAgents makes a cluster of three with a token, lets use work on it and ends it.
func (b *bench) withAgents(ctx context.Context, base *system, use func(context.Context, *agents) (map[string]float64, error)) (map[string]float64, error) {
	dir, err := b.tempDir()
	if err != nil {
		return nil, err
	}
	defer b.discard(dir)
	a := &agents{bin: base.bin}
	defer func() { killAll(a.members) }()
	peer, token := "", filepath.Join(dir, "token")
	for i := range voters {
		s := *base
		s.args = func(dir string, port, at int) []string {
			args := base.args(dir, port, at)
			if i == 0 {
				peer = loopback(at)
			} else {
				args = append(args, "--join", peer, "--token-file", token)
			}
			return append(args, "--proxy-prefixes", "bench")
		}
		home := filepath.Join(dir, fmt.Sprint(i+1))
		if err := os.Mkdir(home, 0o700); err != nil {
			return nil, err
		}
		m, err := s.start(ctx, home, watched{})
		if err != nil {
			return nil, err
		}
		a.members = append(a.members, m)
		if i == 0 {
			if err := makeToken(ctx, home, "any", token); err != nil {
				return nil, err
			}
		}
	}
	if err := awaitVoters(ctx, a.members[0].addr, fetch, voters); err != nil {
		return nil, err
	}
	return use(ctx, a)
}

// awaitVoters waits until a member lists so many voters and nobody else.
func awaitVoters(ctx context.Context, addr string, get func(ctx context.Context, addr, path string) ([]byte, error), want int) error {
	for {
		var list struct {
			Members []struct{ Role string }
		}
		body, err := get(ctx, addr, "/v1/members")
		if err == nil {
			err = json.Unmarshal(body, &list)
		}
		voting := 0
		for _, m := range list.Members {
			if m.Role == "voter" {
				voting++
			}
		}
		if err == nil && voting == want && len(list.Members) == want {
			return nil
		}
		if serr := sleep(ctx, 20*time.Millisecond); serr != nil {
			return errors.Join(serr, err, fmt.Errorf("%d of %d voters", voting, want))
		}
	}
}

// leader is the place of the member that leads, as it says itself.
func (a *agents) leader(ctx context.Context) (int, error) {
	return awaitLeader(ctx, a.members, func(ctx context.Context, m *server) (bool, error) {
		body, err := fetch(ctx, m.addr, "/v1/status")
		if err != nil {
			return false, err
		}
		var s memberStatus
		err = json.Unmarshal(body, &s)
		return s.leads(), err
	})
}

// prober sends writes to one server, one each probeEvery, without waiting for those before.
type prober struct {
	client *http.Client
	addr   string

	mu      sync.Mutex
	last    time.Time // when one was last acknowledged
	longest time.Duration
	unknown int // answers that leave open whether it was applied, or none
	acked   chan struct{}
}

func newProber(addr string) *prober {
	return &prober{addr: addr, acked: make(chan struct{}, 1), client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
}

// run sends until ctx ends, and waits for what is under way.
func (p *prober) run(ctx context.Context) {
	var under sync.WaitGroup
	defer under.Wait()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
			under.Go(func() { p.put(context.WithoutCancel(ctx), n) })
		case <-ctx.Done():
			return
		}
	}
}

func (p *prober) put(ctx context.Context, n int) {
	status, err := putOnce(ctx, p.client, "http://"+p.addr+"/v1/kv/probe", fmt.Append(nil, n))
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil || status == http.StatusGatewayTimeout:
		p.unknown++
	case status == http.StatusOK || status == http.StatusCreated:
		now := time.Now()
		if !p.last.IsZero() {
			p.longest = max(p.longest, now.Sub(p.last))
		}
		p.last = now
		select {
		case p.acked <- struct{}{}:
		default:
		}
	}
}

// begin forgets what was, from an acknowledgement on.
func (p *prober) begin(ctx context.Context) error {
	select {
	case <-p.acked:
	default:
	}
	select {
	case <-p.acked:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longest, p.unknown = 0, 0
	return nil
}

func (p *prober) values(took time.Duration) map[string]float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return map[string]float64{vGap: ms(p.longest), vTook: ms(took), "unknown": float64(p.unknown)}
}

func putOnce(ctx context.Context, c *http.Client, url string, body []byte) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// probing has a prober send to a member while do runs, which starts after an acknowledgement, and for settle behind it.
func probing(ctx context.Context, at *server, do func(ctx context.Context, p *prober) error) (map[string]float64, error) {
	p := newProber(at.addr)
	sending, end := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error { p.run(sending); return nil })
	began := time.Now()
	err := p.begin(ctx)
	if err == nil {
		began = time.Now()
		err = do(ctx, p)
	}
	took := time.Since(began)
	if err == nil {
		err = sleep(ctx, time.Second)
	}
	end()
	_ = g.Wait() // it returns nothing
	return p.values(took), err
}

// killLeader has a follower be asked.
func (b *bench) killLeader(ctx context.Context, a *agents) (map[string]float64, error) {
	leader, err := a.leader(ctx)
	if err != nil {
		return nil, err
	}
	return probing(ctx, a.members[(leader+1)%voters], func(ctx context.Context, p *prober) error {
		a.members[leader].kill()
		for range 5 { // the first may have been under way before
			select {
			case <-p.acked:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
}

// changeMode changes the mode of the leader's box, which is the one that is asked: it has the most to do. A box is demoted
// first to be promoted.
func (b *bench) changeMode(change string) func(context.Context, *agents) (map[string]float64, error) {
	return func(ctx context.Context, a *agents) (map[string]float64, error) {
		leader, err := a.leader(ctx)
		if err != nil {
			return nil, err
		}
		box := a.members[leader]
		token := filepath.Join(filepath.Dir(a.members[0].dir), "token")
		agent := func(ctx context.Context, change string) error {
			args := []string{change, "--data-dir", box.dir}
			if change == "promote" {
				args = append(args, "--token-file", token)
			}
			out, err := exec.CommandContext(ctx, a.bin, args...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("agent %s: %w: %s\n%s", change, err, out, box.log)
			}
			return nil
		}
		if change == "promote" {
			if err := agent(ctx, "demote"); err != nil {
				return nil, err
			}
		}
		return probing(ctx, box, func(ctx context.Context, _ *prober) error { return agent(ctx, change) })
	}
}

// joinSlowly has a box join a member over such a link. The member was made of a backup, so that the joiner gets a snapshot, as
// it does from one that has lived for long; what is in the log alone comes over one connection, which is slower by far.
func (b *bench) joinSlowly(ctx context.Context, base *system) (_ map[string]float64, err error) {
	build, err := newBuilder(b.cache, b.product)
	if err != nil {
		return nil, err
	}
	dir, err := b.tempDir()
	if err != nil {
		return nil, err
	}
	defer b.discard(dir)
	if err := fillMember(ctx, base, filepath.Join(dir, "filled"), filepath.Join(dir, hosts[0])); err != nil {
		return nil, fmt.Errorf("a member with %d MB: %w", joinMB, err)
	}
	net, err := b.badNet(ctx, build)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, net.close()) }()
	var boxes []*server
	defer func() { killAll(boxes) }()
	token := filepath.Join(dir, "token")
	start := func(host int, more ...string) error {
		home := filepath.Join(dir, hosts[host])
		if err := os.MkdirAll(home, 0o700); err != nil {
			return err
		}
		addr := address(host, lossyClientPort)
		args := append([]string{"--data-dir", home, "--listen", "http://" + addr, "--insecure", "--peer-listen", address(host, lossyPeerPort)}, more...)
		s := net.within(host, base, base.bin, args, addr)
		s.ready = func(ctx context.Context, _ string) error {
			if len(more) > 0 {
				return nil // its time is what is measured
			}
			_, err := net.fetch(ctx, host, addr, "/readyz")
			return err
		}
		v, err := s.start(ctx, home, watched{})
		if err == nil {
			boxes = append(boxes, v)
		}
		return err
	}
	if err := start(0); err != nil {
		return nil, err
	}
	if err := makeToken(ctx, filepath.Join(dir, hosts[0]), "any", token); err != nil {
		return nil, err
	}
	if _, err := net.command(ctx, "set", "all", "rate", fmt.Sprintf("%dmbit", joinRate), "loss", joinLoss); err != nil {
		return nil, err
	}
	if _, err := net.stats(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := start(1, "--mode", "member", "--join", address(0, lossyPeerPort), "--token-file", token); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, joinLimit, fmt.Errorf("no voter within %v", joinLimit))
	defer cancel()
	get := func(ctx context.Context, addr, path string) ([]byte, error) { return net.fetch(ctx, 0, addr, path) }
	if err := awaitVoters(ctx, address(0, lossyClientPort), get, 2); err != nil {
		return nil, because(ctx, fmt.Errorf("%w\n%s", err, boxes[1].log))
	}
	took := time.Since(began)
	c, err := net.stats(ctx)
	if err != nil {
		return nil, err
	}
	_, wire, _ := c.sum()
	return map[string]float64{vJoin: took.Seconds(), "wire_mb": wire / 1e6}, nil
}

// fillMember makes the data dir to of a member with so many random bytes, by way of another one and a backup of it.
func fillMember(ctx context.Context, base *system, from, to string) error {
	if err := os.Mkdir(from, 0o700); err != nil {
		return err
	}
	m, err := base.start(ctx, from, watched{})
	if err != nil {
		return err
	}
	defer m.kill()
	client := &http.Client{Timeout: 20 * time.Second}
	value := make([]byte, joinValue)
	for i := range joinMB << 20 / joinValue {
		_, _ = rand.Read(value) // never fails
		if status, err := putOnce(ctx, client, fmt.Sprintf("http://%s/v1/kv/k/%d", m.addr, i), value); err != nil || status != http.StatusCreated {
			return errors.Join(fmt.Errorf("PUT: status %d", status), err)
		}
	}
	backup := from + ".backup"
	for _, args := range [][]string{{"snapshot", "save", backup, "--data-dir", from}, {"snapshot", "restore", backup, "--data-dir", to}} {
		if out, err := exec.CommandContext(ctx, base.bin, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("agent %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// fetch gets a small page of a server from within its namespace.
func (n *badNet) fetch(ctx context.Context, host int, addr, path string) ([]byte, error) {
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.dialer(host)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, res.Status, body)
	}
	return body, err
}
