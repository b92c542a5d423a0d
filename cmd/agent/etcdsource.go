package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	// sourceKeys is how many keys are asked of an etcd at a time; fewer where they are large.
	sourceKeys = 500
	// sourceTries is how often in a row a copy is tried again that fails; following goes on for ever.
	sourceTries = 8
	// sourcePause is the pause before that, each time twice as long, up to sourcePauseMax.
	sourcePause    = 250 * time.Millisecond
	sourcePauseMax = 15 * time.Second
	// stateEvery is how often a position that moves is noted in the state file at most.
	stateEvery = time.Second
)

// etcdSource is a running etcd to copy from, over its JSON gateway.
type etcdSource struct {
	from, prefix, state     string
	follow, leased          bool
	cacert, cert, key, user string

	http  *http.Client
	base  string
	token string
}

func (s *etcdSource) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.from, "from", "", "URL of a running etcd, as http://host:2379")
	f.StringVar(&s.prefix, "prefix", "", "with --from: only keys that begin so")
	f.BoolVar(&s.follow, "follow", false, "with --from: go on with every change, until interrupted")
	f.BoolVar(&s.leased, "leased", false, "with --from: include keys that live under a lease, as keys that live for ever")
	f.StringVar(&s.state, "state", "", "with --from: note in this file how far it is, and go on there")
	f.StringVar(&s.cacert, "from-cacert", "", "CA of an https etcd; default: those of the system")
	f.StringVar(&s.cert, "from-cert", "", "client certificate for it")
	f.StringVar(&s.key, "from-key", "", "key of the client certificate")
	f.StringVar(&s.user, "from-user", "", "file with user:password for an etcd with users")
}

// position is how far a copy has come; the body of the state file.
type position struct {
	Format   int    `json:"format"`
	Cluster  string `json:"cluster"` // of the etcd
	Prefix   []byte `json:"prefix_base64"`
	Revision int64  `json:"revision"` // that the copy is of; 0 before the first answer
	After    []byte `json:"after_base64,omitempty"`
	Copied   bool   `json:"copied"`   // all of that revision is here
	Followed int64  `json:"followed"` // every change up to this revision is here
}

const positionFormat = 1

// importEtcd copies, and follows if asked to.
func (p *program) importEtcd(ctx context.Context, s *etcdSource, b *batcher) error {
	if err := s.open(); err != nil {
		return err
	}
	at, err := s.load()
	if err != nil {
		return err
	}
	m := &mirror{src: s, out: b, at: at, bar: p.progress()}
	err = m.copy(ctx)
	m.bar.end()
	if err != nil {
		return m.stopped(err)
	}
	p.note("copied %d keys as of revision %d of %s", b.written, m.at.Revision, s.from)
	if m.left > 0 {
		p.note("%d keys live under leases and were left out: their owners have to make them anew", m.left)
	}
	if !s.follow {
		return nil
	}
	p.note("following %s from revision %d on; interrupt to end it", s.from, m.at.Followed+1)
	err = m.follow(ctx)
	m.bar.end()
	if ctx.Err() != nil { // interrupted, as was meant
		p.note("every change up to revision %d of %s is here", m.at.Followed, s.from)
		return m.save(true)
	}
	return m.stopped(err)
}

// open makes the client, and logs in.
func (s *etcdSource) open() error {
	u, err := url.Parse(s.from)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.Path != "" && u.Path != "/" {
		return exitf(exitUsage, "--from %q must be http://host:port or https://host:port", s.from)
	}
	s.base = u.Scheme + "://" + u.Host
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.cacert != "" {
		pem, err := os.ReadFile(s.cacert)
		if err != nil {
			return exitf(exitUsage, "%w", err)
		}
		if cfg.RootCAs = x509.NewCertPool(); !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return exitf(exitUsage, "%s holds no certificate", s.cacert)
		}
	}
	if s.cert != "" {
		c, err := tls.LoadX509KeyPair(s.cert, s.key)
		if err != nil {
			return exitf(exitUsage, "%w", err)
		}
		cfg.Certificates = []tls.Certificate{c}
	}
	s.http = &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
	return nil
}

// login gets a token if a user is given. It is asked for anew whenever etcd no longer takes the one there is.
func (s *etcdSource) login(ctx context.Context) error {
	if s.user == "" || s.token != "" {
		return nil
	}
	text, err := os.ReadFile(s.user)
	if err != nil {
		return exitf(exitUsage, "%w", err)
	}
	name, password, ok := strings.Cut(strings.TrimSpace(string(text)), ":")
	if !ok {
		return exitf(exitUsage, "%s does not hold user:password", s.user)
	}
	var a struct {
		Token string `json:"token"`
	}
	if err := s.ask(ctx, "/v3/auth/authenticate", map[string]any{"name": name, "password": password}, &a); err != nil {
		return err
	}
	s.token = a.Token
	return nil
}

// load reads the state file, if there is one and it is of this copy.
func (s *etcdSource) load() (at position, err error) {
	at = position{Format: positionFormat, Prefix: []byte(s.prefix)}
	if s.state == "" {
		return at, nil
	}
	text, err := os.ReadFile(s.state)
	if errors.Is(err, os.ErrNotExist) {
		return at, nil
	}
	if err != nil {
		return at, exitf(exitUsage, "%w", err)
	}
	var was position
	if err := json.Unmarshal(text, &was); err != nil || was.Format != positionFormat || !bytes.Equal(was.Prefix, at.Prefix) {
		return at, exitf(exitUsage, "--state %s is not of this import (prefix %q, format %d): choose another file, or remove it to begin anew", s.state, was.Prefix, was.Format)
	}
	return was, nil
}

// number64 is a number as the gateway writes it: in quotes, and absent for 0.
type number64 int64

// UnmarshalJSON takes it with quotes or without.
func (n *number64) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	*n = number64(v)
	return err
}

type etcdHeader struct {
	Cluster  string   `json:"cluster_id"`
	Revision number64 `json:"revision"`
}

type etcdKV struct {
	Key   []byte   `json:"key"`
	Value []byte   `json:"value"`
	Lease number64 `json:"lease"`
	Mod   number64 `json:"mod_revision"`
}

// etcdError is what an etcd says when it refuses.
type etcdError struct {
	status int
	text   string
}

func (e *etcdError) Error() string { return fmt.Sprintf("etcd answered %d: %s", e.status, e.text) }

func (e *etcdError) compacted() bool { return strings.Contains(e.text, "has been compacted") }

// final reports that trying again changes nothing.
func (e *etcdError) final() bool { return e.status < 500 && e.status != http.StatusUnauthorized }

// post sends a request and returns the open answer.
func (s *etcdSource) post(ctx context.Context, path string, q any) (*http.Response, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if s.token != "" {
		req.Header.Set("Authorization", s.token)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	var said struct {
		Message string `json:"message"`
		Error   string `json:"error"`
	}
	if json.Unmarshal(text, &said) == nil && said.Message+said.Error != "" {
		text = []byte(said.Message)
		if said.Message == "" {
			text = []byte(said.Error)
		}
	}
	if resp.StatusCode == http.StatusUnauthorized {
		s.token = ""
	}
	return nil, errors.Join(&etcdError{resp.StatusCode, strings.TrimSpace(string(text))}, err)
}

var errLargePage = errors.New("the page is too large")

// ask reads a whole answer.
func (s *etcdSource) ask(ctx context.Context, path string, q, a any) error {
	resp, err := s.post(ctx, path, q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerMax+1))
	if err != nil {
		return err
	}
	if len(body) > answerMax {
		return errLargePage
	}
	return json.Unmarshal(body, a)
}

// span is the range of keys under the prefix, behind a key if that is given.
func (s *etcdSource) span(after []byte) (from, end []byte) {
	from, end = []byte(s.prefix), prefixEnd([]byte(s.prefix))
	if len(from) == 0 {
		from = []byte{0}
	}
	if len(after) > 0 {
		from = append(bytes.Clone(after), 0)
	}
	return from, end
}

// prefixEnd is the first key behind all that begin with prefix, a zero byte for none.
func prefixEnd(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return []byte{0}
}

// writePosition replaces the state file.
func writePosition(path string, at position) error {
	text, err := json.Marshal(at)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.new")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return errors.Join(os.Rename(f.Name(), path), syncFolder(filepath.Dir(path)))
}
