package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/config"
	"holdfast/internal/servertls"
)

// https is what the https listeners share.
type https struct {
	keeper *servertls.Keeper
	auto   *serverCert // of tls.auto; nil: files name the certificate
}

// openHTTPS reads what the configuration names, if a listener speaks https. A broken file is refused.
func (a *Agent) openHTTPS() error {
	if !speaksHTTPS(a.cfg) {
		return nil
	}
	t := a.cfg.TLS
	h := &https{}
	o := servertls.Options{
		CertFile: t.CertFile, KeyFile: t.KeyFile, ClientCAFile: t.ClientCAFile, CRLFile: t.CRLFile,
		ClientOptional: t.ClientAuth == "optional", TLS12: t.MinVersion == "tls1.2",
		Now: a.opts.Now, Log: a.opts.Log, Timeout: a.cfg.Limits.HeaderTimeout,
	}
	if t.Auto {
		h.auto = newServerCert(a)
		o.Certificate = h.auto.get
	}
	var err error
	if h.keeper, err = servertls.Open(o); err != nil {
		return refusef("https: %w", err)
	}
	if ends := h.keeper.Ends(); !ends.IsZero() && ends.Before(a.opts.Now()) {
		a.opts.Log.Error("the certificate of the https listeners has ended, and clients will refuse it: put a new one in place, it is taken over at once", "file", t.CertFile, "ended", ends)
	}
	a.https = h
	return nil
}

// registerHTTPS counts what https does, zero where nothing speaks it.
func (a *Agent) registerHTTPS() {
	of := func(value func(*servertls.Keeper) int64) func() float64 {
		return func() float64 {
			if a.https == nil {
				return 0
			}
			return float64(value(a.https.keeper))
		}
	}
	ends := func(k *servertls.Keeper) int64 {
		if at := k.Ends(); !at.IsZero() {
			return at.Unix()
		}
		return 0
	}
	a.opts.Metrics.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "holdfast_agent_https_certificate_end_seconds", Help: "End of the certificate of the https listeners, in seconds since 1970; 0: there is none."}, of(ends)),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "holdfast_agent_https_reload_failures_total", Help: "Times that changed files of https were broken and not taken over."}, of((*servertls.Keeper).Failures)),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "holdfast_agent_https_clients_cut_total", Help: "Connections of https that were ended because the client's certificate is no longer good."}, of((*servertls.Keeper).Cut)),
	)
}

func speaksHTTPS(cfg config.Config) bool {
	for _, text := range append([]string{cfg.MetricsListen}, cfg.Listen...) {
		if u, err := config.ParseURL(text); err == nil && u.TLS {
			return true
		}
	}
	return false
}

// runHTTPS looks after certificates and their files.
func (a *Agent) runHTTPS(ctx context.Context, ready func()) error {
	ready()
	if a.https == nil {
		<-ctx.Done()
		return nil
	}
	if a.https.auto != nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.https.auto.run(ctx)
		}()
		defer func() { <-done }()
	}
	a.https.keeper.Run(ctx)
	return nil
}

// secureConn carries who is at the other end, certificate included.
type secureConn struct {
	*servertls.Conn
	caller api.Caller
}

// Caller is for api.CallerOf.
func (c *secureConn) Caller() api.Caller { return c.caller }

// plainAnswer is for whoever speaks http to an https listener.
const plainAnswer = "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\nThis listener speaks https: use https:// in the URL.\n"

// secure speaks TLS on a connection that was just accepted.
func (a *Agent) secure(c net.Conn) (net.Conn, error) {
	who := api.CallerOf(c)
	if err := a.ledger.take(who, useHandshake); err != nil {
		a.opts.Log.Debug("TLS handshake refused", "from", c.RemoteAddr().String(), "err", err)
		return nil, err
	}
	defer a.ledger.give(who, useHandshake)
	begin := time.Now()
	conn, err := a.https.keeper.Handshake(context.Background(), c)
	if err != nil {
		if errors.Is(err, servertls.ErrPlaintext) && c.SetWriteDeadline(time.Now().Add(farewellTimeout)) == nil {
			_, _ = c.Write([]byte(plainAnswer)) // a client that has gone needs none
		}
		linger(c)
		a.opts.Log.Debug("TLS not agreed upon", "from", c.RemoteAddr().String(), "after", time.Since(begin).String(), "err", err)
		return nil, err
	}
	caller := api.CallerOf(c)
	caller.Secure, caller.Cert = true, conn.Client()
	return &secureConn{conn, caller}, nil
}

// What a client may still send, and for how long, before the connection is closed on it: closed at once, the kernel would
// throw away the alert that says why.
const (
	lingerBytes = 16 << 10
	lingerMax   = 500 * time.Millisecond
)

func linger(c net.Conn) {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(lingerMax)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c, lingerBytes) // ends in an error, whatever happens
}

// isExposed reports whether a door serves plaintext to other machines.
func (d *door) isExposed() bool { return !d.url.TLS && !d.url.Local() }
