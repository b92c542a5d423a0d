package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// answerMax bounds what is kept of an answer: the largest value an agent may be set up for, as base64 in a list, and
// some.
const answerMax = 64 << 20

// client talks to one agent.
type client struct {
	target  target
	http    *http.Client
	timeout time.Duration

	user, password string // shown with each call; none on the administration socket, which is root
}

// connect returns a client for the agent that the flags mean. Nothing is sent yet.
func (p *program) connect(f *clientFlags) (*client, error) {
	t, err := p.target(f)
	if err != nil {
		return nil, err
	}
	if f.timeout <= 0 {
		return nil, exitf(exitUsage, "--timeout must be more than nothing, as 10s")
	}
	tlsConfig, err := f.tls.config()
	if err != nil {
		return nil, err
	}
	password := ""
	if f.user != "" {
		if password, err = p.password("Password of "+f.user, f.passwordFile); err != nil {
			return nil, err
		}
	}
	return &client{
		user: f.user, password: password,
		target:  t,
		timeout: f.timeout,
		http: &http.Client{
			// No Proxy: an agent is on this machine or on this network.
			Transport:     &http.Transport{DialContext: t.dial, TLSClientConfig: tlsConfig, DisableCompression: true, DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// call is a request to an agent.
type call struct {
	method string
	path   string // not escaped
	query  url.Values
	header http.Header
	body   []byte
}

// answer is what an agent said to a call that it did not refuse.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do makes a call and reads the whole answer. A refusal is an error.
func (c *client) do(ctx context.Context, call call) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, call)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := readAnswer(resp.Body)
	if err != nil {
		return nil, c.failed(call, err)
	}
	return &answer{resp.StatusCode, resp.Header, body}, nil
}

// send makes a call and returns the open answer if it is no refusal.
func (c *client) send(ctx context.Context, call call) (*http.Response, error) {
	req, err := c.request(ctx, call)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.failed(call, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := readAnswer(resp.Body)
	if err != nil {
		return nil, c.failed(call, err)
	}
	return nil, c.refused(resp, body)
}

// request puts the key into the path byte for byte: net/url escapes it, and neither that nor net/http cleans it.
func (c *client) request(ctx context.Context, call call) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, call.method, c.target.base.String(), bytes.NewReader(call.body))
	if err != nil {
		return nil, err
	}
	req.URL.Path, req.URL.RawQuery = call.path, call.query.Encode()
	for name, values := range call.header {
		req.Header[name] = values
	}
	if c.user != "" {
		req.SetBasicAuth(c.user, c.password)
	}
	req.Header.Set("User-Agent", "holdfast-agent/"+buildOf().Version)
	return req, nil
}

func readAnswer(body io.Reader) ([]byte, error) {
	all, err := io.ReadAll(io.LimitReader(body, answerMax+1))
	if err == nil && len(all) > answerMax {
		err = fmt.Errorf("the answer is larger than %d bytes", answerMax)
	}
	return all, err
}

// failed explains a call that got no whole answer.
func (c *client) failed(call call, err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if said := distrust(c.target.name, err); said != nil {
		return said
	}
	op, dialed := errors.AsType[*net.OpError](err)
	unconnected := dialed && op.Op == "dial"
	switch {
	case errors.Is(err, fs.ErrPermission):
		return exitf(exitRefused, "you may not use %s: its owner and its group may (%w)", c.target.name, err)
	case unconnected:
		return exitf(exitUnavailable, "no agent at %s: %w (is it running? journalctl -u holdfast says, or start it with: agent)", c.target.name, err)
	}
	unknown := ""
	if call.method != http.MethodGet {
		unknown = "; whether it was done is not known"
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return exitf(exitTemporary, "no answer from %s within %v%s (--timeout sets how long to wait)", c.target.name, c.timeout, unknown)
	}
	if errors.Is(err, context.Canceled) {
		return exitf(exitTemporary, "interrupted%s", unknown)
	}
	return exitf(exitTemporary, "the connection to %s broke: %w%s", c.target.name, err, unknown)
}

// problem is what an agent answers when it refuses: RFC 9457.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Code      string `json:"code"`
	Retryable bool   `json:"retryable"`
	Outcome   string `json:"outcome"`
}

// refused turns an answer that is no success into an error.
func (c *client) refused(resp *http.Response, body []byte) error {
	var p problem
	var call struct {
		Message string `json:"message"`
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") && json.Unmarshal(body, &call) == nil && call.Message != "" {
		return exitf(exitRefused, "%s", call.Message) // of etcd's gateway
	}
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "application/problem+json" || json.Unmarshal(body, &p) != nil {
		return exitf(exitRefused, "%s answered %s, which no agent would: is it one?", c.target.name, resp.Status)
	}
	return p.refusal()
}

// refusal is the problem as an error: worth another try, or not.
func (p *problem) refusal() error {
	text := p.Title
	if p.Detail != "" {
		text = p.Detail
	}
	if p.Code != "" && !strings.Contains(text, p.Code) {
		text += " [" + p.Code + "]"
	}
	if p.Outcome == "unknown" && !strings.Contains(text, "not known") {
		text += "; whether it was done is not known"
	}
	if p.Retryable {
		return exitf(exitTemporary, "%s; try again", text)
	}
	return exitf(exitRefused, "%s", text)
}

// session is what a client command starts with.
func (p *program) session(cmd *cobra.Command, f *clientFlags) (ctx context.Context, c *client, done func(), err error) {
	ctx, stop := p.interruptible(cmd.Context())
	c, err = p.connect(f)
	if err != nil {
		stop()
		return nil, nil, nil, err
	}
	return ctx, c, stop, nil
}

// ask makes one call of a command that makes no other.
func (p *program) ask(cmd *cobra.Command, f *clientFlags, c call) (*answer, error) {
	ctx, cl, done, err := p.session(cmd, f)
	if err != nil {
		return nil, err
	}
	defer done()
	return cl.do(ctx, c)
}

// tell makes one call and prints what is answered: as table does, unless another form is asked for.
func (p *program) tell(cmd *cobra.Command, f *clientFlags, c call, table func(a *answer) error) error {
	a, err := p.ask(cmd, f, c)
	if err != nil {
		return err
	}
	if f.output != outputTable {
		return f.output.printJSON(p.stdout, a.body)
	}
	return table(a)
}

// show is a command that fetches one document and tells it.
func (p *program) show(f *clientFlags, path string, table func(doc []byte) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		return p.tell(cmd, f, call{method: http.MethodGet, path: path}, func(a *answer) error { return table(a.body) })
	}
}

// interruptible ends the context when the user does, so that a command can say what became of what it did.
func (p *program) interruptible(ctx context.Context) (context.Context, func()) {
	received, stop := p.signals(os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-received:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		stop()
		cancel()
		<-done
	}
}
