package transport

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"holdfast/internal/atrest"
)

// Config is what an Endpoint needs. Conn and Identity are required; the zero value of the rest is the default named.
type Config struct {
	// Conn is the one socket for dialing and listening. It stays the caller's, who closes it after Run.
	Conn net.PacketConn
	// Identity returns who this node is now. It is asked for each handshake, so a renewed certificate is used from the
	// next one on. The secret in it, which outlives the certificate, is read once.
	Identity func() *Identity
	// Allowed judges a peer whose certificate is in order: membership and revocation. It runs within handshakes, for
	// resumed sessions too, and must not block. It may return a Refusal to tell the peer why. Nil allows everybody.
	Allowed func(PeerInfo) error
	// Refused hears of each time that a peer did not let this node in. It must not block. Nil: nobody does.
	Refused func(Protocol, Refusal)
	// Now is the time that certificates are judged by. Default: time.Now.
	Now func() time.Time
	// Resolve looks up host names. Default: the system's resolver. Addresses never pass through it.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// ResolveService looks up the hosts and ports of a service (DNS SRV) in the order to try them. Default: the system's.
	ResolveService func(ctx context.Context, name string) ([]*net.SRV, error)
	// Source is the address of this machine from which packets to another one leave, the zero address if there is no route. It
	// must not block. Default: the kernel's word. See Endpoint.Rerouted.
	Source func(netip.Addr) netip.Addr
	// Log gets one line when something changes. Default: nothing.
	Log *slog.Logger

	// DialTCP opens a TCP connection where UDP does not get through. Nil: this node dials over UDP only.
	DialTCP func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	// ListenTCP takes peers that come over TCP; it is closed with Run. They look for it at the port that Conn has. Nil:
	// none are taken.
	ListenTCP net.Listener
	// Relay opens a packet socket that is connected to Conn, from an address of its own, for each peer that comes over TCP.
	// Default: one on the loopback.
	Relay func(ctx context.Context) (net.Conn, error)

	// KeepAlive is how long a connection that this node dialed may be silent before a probe. Default 25 s; negative:
	// never. The side that answers sends none: one exchange keeps both ends and the NATs between them awake. With Spare it holds
	// for uplinks only until the interval is found.
	KeepAlive time.Duration
	// Spare opens another socket, from which it is measured how long a NAT on the way to a peer keeps a mapping; the keep-alive of
	// uplinks goes by that, between 15 and 60 s. Nil: it is not measured.
	Spare func(ctx context.Context) (net.PacketConn, error)
	// Network names the network through which packets leave from an address of this machine, so that what was measured in one is
	// not taken for another. Default: the address itself. It must not block.
	Network func(source netip.Addr) string
	// IdleTimeout ends a connection without a packet for so long; of the two ends the shorter counts. Default 75 s.
	IdleTimeout time.Duration
	// DisablePathMTUDiscovery saves about 10 kB of probes per connection on metered links, and keeps packets at 1200 B.
	DisablePathMTUDiscovery bool
	// Sparing reports whether this node is to send only what it must: it measures nothing, and who asks Endpoint.Sparing makes no
	// copies. It must not block. Nil: it never is.
	Sparing func() bool
	// EarlyData gives peers sessions by which an uplink opens with its first request (0-RTT), and uses theirs. What comes
	// early may be a copy that somebody else sends: see Conn.Confirm.
	EarlyData bool
	// SessionDir is where sessions, and keep-alives that were found, outlive a restart, in files of mode 0600. Empty: they do not.
	SessionDir string
	// Seal is what that file is sealed with; nil: with nothing.
	Seal *atrest.Seal

	MaxConns      int // incoming connections; default 16384
	MaxHandshakes int // incoming, under way at once; default 256
}

// Settings of every connection.
const (
	// 25 s keeps a typical carrier NAT open: 3,456 probes a day of 117 B with the answer, about 0.4 MB.
	defaultKeepAlive = 25 * time.Second
	// Three keep-alives: two may be lost, retransmissions included, before a link is given up.
	defaultIdleTimeout = 75 * time.Second
	// A handshake that hears nothing for 5 s has failed, and so has one that takes twice that.
	handshakeIdle = 5 * time.Second
	handshakeMax  = 2 * handshakeIdle
	// With quic-go's default of 1280 a path that silently drops larger packets would fail the handshake.
	initialPacketSize = 1200

	// Ten thousand proxies that all send and none is read hold 96 KiB each at most. A window grows, out of windowBudget,
	// while its stream is read: 4 MiB in flight is 56 Mbit/s at 600 ms.
	initialStreamWindow = 64 << 10
	initialConnWindow   = 96 << 10
	maxStreamWindow     = 4 << 20
	maxConnWindow       = 8 << 20
	// Streams that a peer may have open at once; one more waits in OpenStream.
	maxStreams    = 256
	maxUniStreams = 256

	// joinLife bounds a connection of a node that has shown no certificate.
	joinLife = time.Minute
	// samplePeriod is how often idle connections are looked at, for Health.
	samplePeriod = 5 * time.Second
	// refusalLogPeriod bounds the log lines about peers that are turned away, which others can cause at will.
	refusalLogPeriod = 10 * time.Second
)

func (cfg Config) withDefaults() Config {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if cfg.ResolveService == nil {
		cfg.ResolveService = func(ctx context.Context, name string) ([]*net.SRV, error) {
			_, all, err := net.DefaultResolver.LookupSRV(ctx, "", "", name)
			return all, err
		}
	}
	if cfg.Source == nil {
		cfg.Source = sourceOf
		if _, ok := cfg.Conn.(*net.UDPConn); !ok {
			cfg.Source = func(netip.Addr) netip.Addr { return netip.Addr{} } // the kernel knows nothing of another network
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Sparing == nil {
		cfg.Sparing = func() bool { return false }
	}
	if cfg.Network == nil {
		cfg.Network = networkOf
	}
	if cfg.Relay == nil {
		cfg.Relay = dialLoopback(cfg.Conn)
	}
	cfg.KeepAlive = max(orDefault(cfg.KeepAlive, defaultKeepAlive), 0)
	cfg.IdleTimeout = orDefault(cfg.IdleTimeout, defaultIdleTimeout)
	cfg.MaxConns = orDefault(cfg.MaxConns, defaultMaxConns)
	cfg.MaxHandshakes = orDefault(cfg.MaxHandshakes, defaultMaxHandshakes)
	return cfg
}

func orDefault[T ~int | ~int64](v, d T) T {
	if v == 0 {
		return d
	}
	return v
}
