package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// The contenders of the suite: one listener each, of a node without and of one with authentication.
const (
	doorPlain  = "http"
	doorTLS    = "https"
	doorToken  = "http, device token"
	doorBoth   = "https, device token"
	doorShakes = "TLS 1.3 handshakes, not resumed"
)

const (
	doorPrefix = "bench/" // of all keys of the load
	halfOpen   = 5000     // handshakes that are begun and not gone on with
)

// locked is a node with an https listener of its own and what a client needs there.
type lockedServer struct {
	*server
	https string
	token string // of a device, empty while authentication is off
	dir   string
}

// runDoor measures what TLS and the judgement of rights cost a request, what a handshake costs, what half-open handshakes hold, and what
// a client that behaves sees of floods.
func runDoor(ctx context.Context, b *bench) error {
	if b.system("holdfast") == nil {
		return errors.New("the suite measures the product: leave holdfast in -systems")
	}
	if b.only != "" {
		return b.runFloods(ctx)
	}
	open, err := b.startDoor(ctx, false)
	if err != nil {
		return err
	}
	defer open.end(b)
	guarded, err := b.startDoor(ctx, true)
	if err != nil {
		return err
	}
	defer guarded.end(b)
	at := map[string]*lockedServer{doorPlain: open, doorTLS: open, doorToken: guarded, doorBoth: guarded}
	var list []contender
	for _, name := range []string{doorPlain, doorTLS, doorToken, doorBoth} {
		list = append(list, contender{name: name, dial: at[name].dialer(name == doorTLS || name == doorBoth)})
	}
	for _, c := range []contender{list[0], list[2]} {
		if err := fill(ctx, b.options, at[c.name].server, c); err != nil {
			return err
		}
	}
	for _, what := range []struct {
		name string
		do   operation
	}{{"put", put}, {"get", get(false)}} {
		err := b.rounds(ctx, list, func(round, clients int, c contender) error {
			out, err := drive(ctx, b.options, at[c.name].server, c, load{clients: clients, warmup: b.warmup, duration: b.duration, do: what.do})
			if err != nil {
				return err
			}
			b.report.add(cell{"door", what.name, c.name, clients}, round, out.values())
			return nil
		})
		if err != nil {
			return err
		}
		b.loadTable(what.name+" over kept connections of HTTP/1.1", "door", what.name, list)
		var claims []claim
		for _, n := range b.clients {
			for _, name := range []string{doorTLS, doorToken, doorBoth} {
				num, den := cell{"door", what.name, name, n}, cell{"door", what.name, doorPlain, n}
				claims = append(claims,
					claim{what: "server CPU, " + name + " over http, " + clients(n), num: num, den: den, value: vCPU},
					claim{what: "p50, " + name + " over http, " + clients(n), num: num, den: den, value: vP50})
			}
		}
		b.report.claims(what.name+": ratios", claims)
	}
	if err := b.handshakes(ctx, open); err != nil {
		return err
	}
	if err := b.halfOpen(ctx); err != nil {
		return err
	}
	return b.runFloods(ctx)
}

// handshakes measures full ones; a second of CPU over the CPU of one is how many a core does.
func (b *bench) handshakes(ctx context.Context, v *lockedServer) error {
	c := contender{name: doorShakes, dial: func(context.Context, string, int) (dialer, error) {
		return dialEach(func(context.Context) (client, error) { return shaker{v.https}, nil }), nil
	}}
	var rows [][]string
	for _, n := range b.clients {
		x := cell{"door", "handshake", c.name, n}
		for round := range b.options.rounds {
			b.progress("%s, round %d of %d: %s", clients(n), round+1, b.options.rounds, c.name)
			out, err := drive(ctx, b.options, v.server, c, load{clients: n, warmup: b.warmup, duration: b.duration, do: put})
			if err != nil {
				return err
			}
			values := out.values()
			values["per_core"] = 1e6 / values[vCPU]
			b.report.add(x, round, values)
		}
		rows = append(rows, []string{clients(n), b.report.figure(x, vRate, whole), b.report.figure(x, vCPU, whole), b.report.figure(x, "per_core", whole)})
	}
	b.report.table(doorShakes+", connection and its end included", []string{"clients", "a second", "server CPU us", "a second and core"}, rows)
	return nil
}

// halfOpen begins handshakes and weighs the node.
func (b *bench) halfOpen(ctx context.Context) error {
	x := cell{"door", "half-open", "https", halfOpen}
	for round := range b.options.rounds {
		b.progress("half-open handshakes, round %d of %d", round+1, b.options.rounds)
		if err := b.halfOpenOnce(ctx, x, round); err != nil {
			return err
		}
	}
	b.report.table(fmt.Sprintf("%d TLS handshakes that are begun and not gone on with", halfOpen), []string{"what", "before", "with them", "for each"}, [][]string{
		{"RSS", b.report.figure(x, "rss_before", sized), b.report.figure(x, "rss_with", sized), b.report.figure(x, "rss_each", sized)},
		{"RssAnon", b.report.figure(x, "anon_before", sized), b.report.figure(x, "anon_with", sized), b.report.figure(x, "anon_each", sized)},
	})
	return nil
}

func (b *bench) halfOpenOnce(ctx context.Context, x cell, round int) error {
	most := strconv.Itoa(halfOpen + 100)
	v, err := b.startDoor(ctx, false, "--limits-connections", most, "--limits-handshakes", most, "--limits-header-timeout", "10m")
	if err != nil {
		return err
	}
	defer v.end(b)
	before, err := readMemory(v.pid)
	if err != nil {
		return err
	}
	var all []net.Conn
	defer func() {
		for _, c := range all {
			_ = c.Close() // nothing was said on it
		}
	}()
	for range halfOpen {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", v.https)
		if err != nil {
			return fmt.Errorf("half-open connection %d: %w", len(all)+1, err)
		}
		all = append(all, c)
		if _, err := c.Write([]byte{22, 3, 1, 2, 0}); err != nil {
			return err
		}
	}
	for {
		text, err := fetch(ctx, v.addr, "/metrics")
		if err != nil {
			return err
		}
		if n, _ := metric(text, `holdfast_agent_connections{for="clients"}`); n >= halfOpen {
			break
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	with, err := readMemory(v.pid)
	if err != nil {
		return err
	}
	b.report.add(x, round, map[string]float64{
		"rss_before": float64(before.rss), "rss_with": float64(with.rss), "rss_each": float64(with.rss-before.rss) / halfOpen,
		"anon_before": float64(before.anon), "anon_with": float64(with.anon), "anon_each": float64(with.anon-before.anon) / halfOpen,
	})
	return nil
}

// startDoor starts an empty member with an http and an https listener.
func (b *bench) startDoor(ctx context.Context, guarded bool, more ...string) (l *lockedServer, err error) {
	l = &lockedServer{}
	if l.dir, err = b.tempDir(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.end(b)
		}
	}()
	port, _, err := freePorts()
	if err != nil {
		return nil, err
	}
	l.https = loopback(port)
	s := *b.system("holdfast")
	plain := s.args
	s.args = func(dir string, port, peer int) []string {
		return slices.Concat(plain(dir, port, peer), []string{"--listen", "https://" + l.https, "--tls-auto"}, more)
	}
	if l.server, err = s.start(ctx, l.dir, watched{}); err != nil {
		return nil, err
	}
	if guarded {
		if l.token, err = lock(ctx, l.addr); err != nil {
			return nil, fmt.Errorf("turn authentication on: %w", err)
		}
	}
	for { // the certificate comes once the cluster has its CA
		c, err := l.dialTLS(ctx)
		if err == nil {
			return l, c.Close()
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func (l *lockedServer) end(b *bench) {
	if l.server != nil {
		l.kill()
	}
	b.discard(l.dir)
}

// lock turns authentication on and returns the token of a device that may do what the load does.
func lock(ctx context.Context, addr string) (token string, err error) {
	ask := func(path, body, show string, into any) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+path, bytes.NewReader([]byte(body)))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "application/json")
		if show != "" {
			r.Header.Set("Authorization", "Bearer "+show)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(res.Body)
		err = errors.Join(err, res.Body.Close())
		if err == nil && res.StatusCode/100 != 2 {
			err = fmt.Errorf("POST %s: %d %s", path, res.StatusCode, text)
		}
		if err != nil {
			return err
		}
		return json.Unmarshal(text, into)
	}
	var got struct{ Token string }
	for _, step := range [][2]string{
		{"/v3/auth/user/add", `{"name":"root","password":"p"}`}, {"/v3/auth/user/grant", `{"user":"root","role":"root"}`},
		{"/v3/auth/enable", `{}`}, {"/v3/auth/authenticate", `{"name":"root","password":"p"}`},
	} {
		if err := ask(step[0], step[1], "", &got); err != nil {
			return "", err
		}
	}
	root := got.Token
	err = ask("/v1/devices", `{"name":"bench","allow":["get","put"],"prefixes":["`+doorPrefix+`"]}`, root, &got)
	return got.Token, err
}

// anyServer is taken for the right one: the load generator measures what the server pays for its own certificate.
var anyServer = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // see above

func (l *lockedServer) dialTLS(ctx context.Context) (net.Conn, error) {
	return (&tls.Dialer{Config: anyServer}).DialContext(ctx, "tcp", l.https)
}

func (l *lockedServer) dialer(secure bool) func(context.Context, string, int) (dialer, error) {
	return func(context.Context, string, int) (dialer, error) {
		return dialEach(func(ctx context.Context) (client, error) {
			dial := l.dialTLS
			if !secure {
				dial = func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", l.addr) }
			}
			conn, err := dial(ctx)
			if err != nil {
				return nil, err
			}
			c := doorClient{httpConn: &httpConn{conn: conn, in: bufio.NewReaderSize(conn, 4<<10)}}
			if l.token != "" {
				c.header = "Authorization: Bearer " + l.token + "\r\n"
			}
			return c, nil
		}), nil
	}
}

// doorClient is a restClient that shows a token.
type doorClient struct {
	*httpConn
	header string
}

func (c doorClient) Put(key, value []byte) error {
	c.out = fmt.Appendf(c.out[:0], "PUT /v1/kv/%s HTTP/1.1\r\nHost: bench\r\n%sContent-Length: %d\r\n\r\n", key, c.header, len(value))
	c.out = append(c.out, value...)
	status, body, err := c.do()
	if err == nil && status != 200 && status != 201 {
		err = fmt.Errorf("PUT %s: %d: %s", key, status, body)
	}
	return err
}

func (c doorClient) Get(key []byte, _ bool) (int, error) {
	c.out = fmt.Appendf(c.out[:0], "GET /v1/kv/%s?consistency=local HTTP/1.1\r\nHost: bench\r\n%s\r\n", key, c.header)
	status, body, err := c.do()
	if err == nil && status != 200 {
		err = fmt.Errorf("GET %s: %d: %s", key, status, body)
	}
	return len(body), err
}

// shaker connects, agrees on keys and goes away.
type shaker struct{ addr string }

func (s shaker) Put(_, _ []byte) error {
	c, err := tls.Dial("tcp", s.addr, anyServer)
	if err != nil {
		return err
	}
	return c.Close()
}

func (s shaker) Get([]byte, bool) (int, error) { return 0, errors.New("a handshake has no value") }

func (s shaker) Close() error { return nil }
