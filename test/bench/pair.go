package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// pair is a member and a proxy that has joined it, on loopback.
type pair struct {
	member, proxy *server
	dir           string
}

// queued is the prefix of the keys that a proxy of a pair may queue; all keys of the load are under it.
const queued = "bench/"

// startPair starts a member on a directory, or an empty one if that is "", and a proxy with more arguments. It returns
// once the proxy has its uplink and mirrors what it is to mirror.
func (b *bench) startPair(ctx context.Context, memberDir string, more ...string) (p *pair, err error) {
	return b.startPairOn(ctx, memberDir, "", watched{}, more...)
}

// startPairOn is startPair with a proxy that is watched, on a directory, or an empty one if that is "".
func (b *bench) startPairOn(ctx context.Context, memberDir, proxyDir string, w watched, more ...string) (p *pair, err error) {
	p = &pair{}
	defer func() {
		if err != nil {
			p.end(b)
		}
	}()
	if p.dir, err = b.tempDir(); err != nil {
		return nil, err
	}
	if memberDir == "" {
		memberDir = filepath.Join(p.dir, "m")
	}
	if proxyDir == "" {
		proxyDir = filepath.Join(p.dir, "p")
	}
	if err := errors.Join(os.MkdirAll(memberDir, 0o700), os.MkdirAll(proxyDir, 0o700)); err != nil {
		return nil, err
	}
	_, peer, err := freePorts()
	if err != nil {
		return nil, err
	}
	bin := b.system("holdfast").bin
	m := &system{name: "member", bin: bin, ready: askOK("/readyz"), args: func(dir string, port, _ int) []string {
		return []string{"--data-dir", dir, "--listen", url(port), "--peer-listen", loopback(peer)}
	}}
	if p.member, err = m.start(ctx, memberDir, watched{}); err != nil {
		return nil, err
	}
	token := filepath.Join(p.dir, "token")
	if err := makeToken(ctx, memberDir, "proxy", token); err != nil {
		return nil, err
	}
	x := &system{name: "proxy", bin: bin, ready: synced, args: func(dir string, port, _ int) []string {
		return append([]string{"--mode", "proxy", "--data-dir", dir, "--listen", url(port), "--peer-listen", loopback(0),
			"--join", loopback(peer), "--token-file", token}, more...)
	}}
	p.proxy, err = x.start(ctx, proxyDir, w)
	return p, err
}

// end kills what was started and removes its data.
func (p *pair) end(b *bench) {
	for _, v := range []*server{p.proxy, p.member} {
		if v != nil {
			v.kill()
		}
	}
	if p.dir != "" {
		b.discard(p.dir)
	}
}

// makeToken asks a member for a join token over its socket and writes it to a file.
func makeToken(ctx context.Context, dir, role, file string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "agent.sock"))
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://member/v1/tokens", strings.NewReader(fmt.Sprintf(`{"role":%q,"ttl":"1h","scope":[""]}`, role)))
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("make a token: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("make a token: %w", err)
	}
	var made struct{ Token string }
	if err := json.Unmarshal(body, &made); err != nil || made.Token == "" {
		return fmt.Errorf("make a token: %s: %s", res.Status, body)
	}
	return os.WriteFile(file, []byte(made.Token), 0o600)
}

// proxyStatus is what this program reads of /v1/status.
type proxyStatus struct {
	Proxy struct {
		Joined     bool       `json:"joined"`
		Upstream   string     `json:"upstream"`
		Synced     bool       `json:"synced"`
		UplinkLost bool       `json:"uplink_lost"`
		Mirrors    []struct{} `json:"mirrors"`
	} `json:"proxy"`
	Links []struct {
		Sent     uint64 `json:"bytes_sent"`
		Received uint64 `json:"bytes_received"`
	} `json:"links"`
}

func statusOf(ctx context.Context, addr string) (s proxyStatus, err error) {
	page, err := fetch(ctx, addr, "/v1/status")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(page, &s); err != nil {
		return s, fmt.Errorf("/v1/status of %s: %w", addr, err)
	}
	return s, nil
}

// carried is how many bytes of QUIC the links of a node have carried, both ways, without the headers of UDP and IP.
func (s proxyStatus) carried() (sum uint64) {
	for _, l := range s.Links {
		sum += l.Sent + l.Received
	}
	return sum
}

var errNotSynced = errors.New("the proxy is not synced")

// synced is when a proxy counts as ready here: it has its uplink and mirrors all that it is to mirror.
func synced(ctx context.Context, addr string) error {
	s, err := statusOf(ctx, addr)
	if err != nil {
		return err
	}
	if !s.Proxy.Joined || s.Proxy.Upstream == "" || s.Proxy.UplinkLost || !s.Proxy.Synced && len(s.Proxy.Mirrors) > 0 {
		return errNotSynced
	}
	return nil
}
