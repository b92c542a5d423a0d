package transport

import (
	"crypto/tls"
	"sync"

	"github.com/quic-go/quic-go"
)

// quicConfig holds for connections both ways. The dialing side adds a keep-alive.
func (e *Endpoint) quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           handshakeIdle,
		MaxIdleTimeout:                 e.cfg.IdleTimeout,
		InitialStreamReceiveWindow:     initialStreamWindow,
		MaxStreamReceiveWindow:         maxStreamWindow,
		InitialConnectionReceiveWindow: initialConnWindow,
		MaxConnectionReceiveWindow:     maxConnWindow,
		AllowConnectionWindowIncrease:  e.adm.grow,
		MaxIncomingStreams:             maxStreams,
		MaxIncomingUniStreams:          maxUniStreams,
		InitialPacketSize:              initialPacketSize,
		DisablePathMTUDiscovery:        e.cfg.DisablePathMTUDiscovery,
		EnableDatagrams:                true,
		Allow0RTT:                      e.cfg.EarlyData, // for whom there are tickets: see serverTLS
	}
}

// serverTLS chooses by ALPN what the client has to show and what it is shown.
func (e *Endpoint) serverTLS() *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       e.cfg.Now,
		// Replaced for each handshake; a client that asks for none of ours fails on this one.
		NextProtos: []string{"holdfast"},
	}
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		p, ok := e.chooseProtocol(hello.SupportedProtos)
		if !ok {
			return base.Clone(), nil
		}
		id := e.cfg.Identity()
		if !id.Joined() {
			return nil, ErrNotJoined
		}
		return e.door.config(p, id, ticketDay(e.cfg.Now()), e.protocolTLS), nil
	}
	return base
}

// protocolTLS is what connections of a protocol are accepted with, for as long as the identity and the day are these.
func (e *Endpoint) protocolTLS(p Protocol, id *Identity, day int64) *tls.Config {
	auth := tls.RequireAnyClientCert // judged by verifier, which can say why it refuses
	if p.mayDial(None) {
		auth = tls.NoClientCert
	}
	cfg := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Time:         e.cfg.Now,
		NextProtos:   []string{string(p)},
		Certificates: []tls.Certificate{id.tlsCertificate(p.mayDial(None))},
		ClientAuth:   auth,
		VerifyConnection: func(s tls.ConnectionState) error {
			return e.verifier(p, true, Target{}).verify(s) // by what is trusted then
		},
		SessionTicketsDisabled: !e.cfg.EarlyData || p != Uplink,
	}
	if !cfg.SessionTicketsDisabled {
		cfg.SetSessionTicketKeys(id.ticketKeys(day))
	}
	return cfg
}

// protocolConfigs keeps the last configuration of each protocol: a connection keeps the one that it was accepted with, and
// quic-go another copy of it, for as long as it lives.
type protocolConfigs struct {
	mu   sync.Mutex
	last map[Protocol]protocolConfig
}

type protocolConfig struct {
	*tls.Config
	id  *Identity
	day int64
}

func (c *protocolConfigs) config(p Protocol, id *Identity, day int64, fresh func(Protocol, *Identity, int64) *tls.Config) *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.last[p]
	if last.id != id || last.day != day {
		if c.last == nil {
			c.last = map[Protocol]protocolConfig{}
		}
		last = protocolConfig{fresh(p, id, day), id, day}
		c.last[p] = last
	}
	return last.Config
}

func (e *Endpoint) chooseProtocol(offered []string) (Protocol, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, o := range offered {
		if _, ok := e.handlers[Protocol(o)]; ok {
			return Protocol(o), true
		}
	}
	return "", false
}

// clientTLS is for one dial.
func (e *Endpoint) clientTLS(p Protocol, t Target) (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       e.cfg.Now,
		NextProtos: []string{string(p)},
		// Peers are node ids, not host names: the chain is checked by verifier, which also runs for resumed sessions.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection:   e.verifier(p, false, t).verify,
	}
	if p.mayDial(None) {
		return cfg, nil
	}
	id := e.cfg.Identity()
	if !id.Joined() {
		return nil, ErrNotJoined
	}
	cfg.Certificates = []tls.Certificate{id.tlsCertificate(false)}
	return cfg, nil
}

func (e *Endpoint) verifier(p Protocol, serving bool, t Target) verifier {
	id := e.cfg.Identity()
	v := verifier{
		protocol: p, serving: serving, self: id.node, roots: id.roots, cluster: id.info.Cluster,
		expect: t.Node, proxies: t.AllowProxy, now: e.cfg.Now, allowed: e.cfg.Allowed,
	}
	if !serving && p.anonymous() && t.CAHash != "" {
		v.roots, v.cluster, v.pin, v.allowed = nil, "", t.CAHash, nil // knows nobody yet
	}
	return v
}
