// Package servertls keeps what https listeners need fresh: certificate and key, the CA of clients, and its revocations.
//
//	k, err := servertls.Open(options)   // read and checked; a fault is an error
//	conn, err := k.Handshake(ctx, raw)  // TLS is spoken, the client judged
//	go k.Run(ctx)                       // files that change are taken over
//
// What was read is one value, replaced whole. New files that are broken change nothing: the former ones stay in force,
// and Options.Log says so once. When they do change, open connections are judged again, so that a client whose
// certificate was revoked, or whose CA is gone, is cut off.
package servertls

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Options is what a Keeper goes by.
type Options struct {
	CertFile, KeyFile string // PEM: chain and key of the server; both empty: Certificate
	ClientCAFile      string // PEM; empty: clients are not asked for certificates
	CRLFile           string // PEM or DER, of CAs in ClientCAFile; empty: nothing is revoked
	ClientOptional    bool   // a client may have no certificate; one that it shows is judged all the same
	TLS12             bool   // TLS 1.2 is spoken too, with forward secrecy and AEAD ciphers only

	// Certificate is the server's certificate where no files name one; it is asked at each handshake.
	Certificate func() (*tls.Certificate, error)

	Now func() time.Time // by which certificates of clients are judged; nil: time.Now
	Log *slog.Logger     // required

	// Timeout bounds a handshake; 0: 10 s.
	Timeout time.Duration
}

const (
	timeout = 10 * time.Second
	// pollEvery is how often files are looked at: a stat of each. A client whose certificate is revoked is promised to be cut off
	// within 5 s of that; the rest is for a busy machine.
	pollEvery = 2 * time.Second
	// ticketLife is how long keys for resuming sessions last, at most.
	ticketLife = 24 * time.Hour
)

// Keeper has what https listeners need. Its methods may be called concurrently.
type Keeper struct {
	opts    Options
	present atomic.Pointer[state]

	loading sync.Mutex // one Reload at a time
	seen    []stamp    // of the files that were looked at last, taken over or not
	fault   string     // of the last Reload, "" for none

	mu    sync.Mutex
	conns map[*Conn]struct{} // with a client certificate

	failures atomic.Int64
	cut      atomic.Int64
}

// state is one reading of the files.
type state struct {
	config  *tls.Config
	files   contents
	made    time.Time
	pool    *x509.CertPool // of clients, nil for none
	revoked revocations
}

// Open reads the files. A fault in one names it and says what to do.
func Open(o Options) (*Keeper, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout == 0 {
		o.Timeout = timeout
	}
	if (o.CertFile == "" || o.KeyFile == "") && o.Certificate == nil {
		return nil, errors.New("no certificate: set tls.cert-file and tls.key-file, or tls.auto")
	}
	k := &Keeper{opts: o, conns: map[*Conn]struct{}{}}
	k.seen = k.opts.stamps()
	files, err := o.read()
	if err != nil {
		return nil, err
	}
	s, err := k.build(files)
	if err != nil {
		return nil, err
	}
	k.present.Store(s)
	return k, nil
}

// build checks what was read, and makes of it what a handshake needs.
func (k *Keeper) build(files contents) (*state, error) {
	s := &state{files: files, made: time.Now()}
	s.config = &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2", "http/1.1"},
		Time:       k.opts.Now,
	}
	if k.opts.TLS12 {
		s.config.MinVersion = tls.VersionTLS12
		s.config.CipherSuites = suites12
	}
	if k.opts.CertFile == "" {
		own := k.opts.Certificate
		s.config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own() }
	} else {
		cert, err := tls.X509KeyPair(files.cert, files.key)
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", k.opts.CertFile, k.opts.KeyFile, err)
		}
		s.config.Certificates = []tls.Certificate{cert}
	}
	if k.opts.ClientCAFile != "" {
		cas, err := parseCAs(files.clientCA)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.opts.ClientCAFile, err)
		}
		s.pool = x509.NewCertPool()
		for _, ca := range cas {
			s.pool.AddCert(ca)
		}
		if k.opts.CRLFile != "" {
			if s.revoked, err = parseCRLs(files.crl, cas); err != nil {
				return nil, fmt.Errorf("%s: %w", k.opts.CRLFile, err)
			}
		}
		s.config.ClientCAs = s.pool
		s.config.ClientAuth = tls.RequireAndVerifyClientCert
		if k.opts.ClientOptional {
			s.config.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	// Judged again for resumed sessions too, whose certificates may have been revoked meanwhile.
	s.config.VerifyConnection = func(cs tls.ConnectionState) error { return s.judge(cs.PeerCertificates, k.opts.Now()) }
	// A session is resumed only as long as all it was judged by is in force: each reading has keys of its own.
	var key [32]byte
	_, _ = rand.Read(key[:])
	s.config.SetSessionTicketKeys([][32]byte{key})
	return s, nil
}

// suites12 are those of TLS 1.2 that have forward secrecy and authenticated encryption.
var suites12 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// judge says why the certificates of a client are not good, now.
func (s *state) judge(shown []*x509.Certificate, now time.Time) error {
	if s.pool == nil || len(shown) == 0 {
		return nil // whether one is needed, crypto/tls has judged
	}
	between := x509.NewCertPool()
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	chains, err := shown[0].Verify(x509.VerifyOptions{Roots: s.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return fmt.Errorf("client certificate %s: %w", subject(shown[0]), err)
	}
	if len(s.revoked) == 0 {
		return nil
	}
	for _, chain := range chains { // one without a revoked certificate will do
		if revoked := s.revoked.in(chain); revoked == nil {
			return nil
		} else if err == nil {
			err = fmt.Errorf("client certificate %s: revoked (serial %x)", subject(shown[0]), revoked.SerialNumber)
		}
	}
	return err
}

func subject(c *x509.Certificate) string {
	const longest = 200
	text := c.Subject.String()
	if len(text) > longest {
		text = text[:longest]
	}
	return fmt.Sprintf("%q", text)
}

// Reload takes over what the files say now. An error means that they are broken, and that the former ones stay in force.
func (k *Keeper) Reload() error {
	k.loading.Lock()
	defer k.loading.Unlock()
	return k.reload(true)
}

// reload is Reload under the lock. An unchanged set of files is left alone, and so is one whose fault was told.
func (k *Keeper) reload(asked bool) error {
	stamps := k.opts.stamps()
	was := k.present.Load()
	if !asked && equal(stamps, k.seen) {
		return nil
	}
	k.seen = stamps
	files, err := k.opts.read()
	if err == nil && files.equal(was.files) {
		k.fault = ""
		return nil
	}
	var s *state
	if err == nil {
		s, err = k.build(files)
	}
	if err != nil {
		if k.failures.Add(1); asked || err.Error() != k.fault {
			k.opts.Log.Error("the files of https are broken and not taken over; the former certificate, CA and CRL stay in force", "err", err)
		}
		k.fault = err.Error()
		return err
	}
	k.fault = ""
	k.present.Store(s)
	cut := k.recheck()
	k.opts.Log.Info("the files of https are taken over", "certificate_ends", k.Ends(), "connections_cut", cut)
	return nil
}

// Run looks after the files until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		k.loading.Lock()
		_ = k.reload(false) // it was logged
		if was := k.present.Load(); time.Since(was.made) > ticketLife {
			if s, err := k.build(was.files); err == nil {
				k.present.Store(s)
			}
		}
		k.loading.Unlock()
		k.recheck() // a certificate may have ended
	}
}

// Ends is when the certificate of the server does; zero if there is none yet.
func (k *Keeper) Ends() time.Time {
	cert := k.certificate()
	if cert == nil || cert.Leaf == nil {
		return time.Time{}
	}
	return cert.Leaf.NotAfter
}

func (k *Keeper) certificate() *tls.Certificate {
	s := k.present.Load()
	if len(s.config.Certificates) > 0 {
		return &s.config.Certificates[0]
	}
	cert, err := k.opts.Certificate()
	if err != nil {
		return nil
	}
	return cert
}

// Failures counts files that could not be taken over, Cut connections that were ended because their client's certificate
// is no longer good.
func (k *Keeper) Failures() int64 { return k.failures.Load() }

// Cut is described at Failures.
func (k *Keeper) Cut() int64 { return k.cut.Load() }

// Handshake speaks TLS on a connection that was just accepted, within Options.Timeout. The connection is left to the
// caller if that fails.
func (k *Keeper) Handshake(ctx context.Context, raw net.Conn) (*Conn, error) {
	s := k.present.Load()
	c := &Conn{Conn: tls.Server(raw, s.config), keeper: k}
	ctx, cancel := context.WithTimeout(ctx, k.opts.Timeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok && plain.Conn != nil && looksLikeHTTP(plain.RecordHeader[:]) {
			return nil, ErrPlaintext
		}
		return nil, err
	}
	if shown := c.ConnectionState().PeerCertificates; len(shown) > 0 {
		c.shown = shown
		k.mu.Lock()
		k.conns[c] = struct{}{}
		k.mu.Unlock()
		if now := k.present.Load(); now != s && now.judge(shown, k.opts.Now()) != nil { // replaced meanwhile
			_ = c.Close()
			return nil, errors.New("the client's certificate has just been withdrawn")
		}
	}
	return c, nil
}

// ErrPlaintext is Handshake's error for a client that speaks plain HTTP.
var ErrPlaintext = errors.New("the client speaks http to an https listener")

func looksLikeHTTP(head []byte) bool {
	for _, method := range []string{"GET /", "HEAD ", "POST ", "PUT /", "DELET", "OPTIO", "PATCH", "PRI *"} {
		if bytes.HasPrefix([]byte(method), head) {
			return true
		}
	}
	return false
}

// recheck judges the clients of open connections anew, and cuts off those that are no longer good.
func (k *Keeper) recheck() (cut int) {
	k.mu.Lock()
	open := make([]*Conn, 0, len(k.conns))
	for c := range k.conns {
		open = append(open, c)
	}
	k.mu.Unlock()
	s, now := k.present.Load(), k.opts.Now()
	for _, c := range open {
		if err := s.judge(c.shown, now); err != nil {
			k.opts.Log.Warn("client cut off", "from", c.RemoteAddr().String(), "because", err)
			_ = c.NetConn().Close() // at once: a farewell could wait for a client that does not read
			k.forget(c)
			k.cut.Add(1)
			cut++
		}
	}
	return cut
}

func (k *Keeper) forget(c *Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, c)
}
