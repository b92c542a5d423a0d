package agent

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Options is everything outside that an agent touches. The zero value is the default that each field names.
type Options struct {
	// Log gets a line for each change. Nil: slog.Default().
	Log *slog.Logger

	// LogLevel is the level that Log filters by. Reload sets it; nil: log-level needs a restart.
	LogLevel *slog.LevelVar

	// Metrics is where the agent registers and what /metrics shows. Agents in one process need one each. Nil: a new one
	// with the collectors of the Go runtime and of the process.
	Metrics *prometheus.Registry

	// Listen opens the listeners, with network tcp or unix. Nil: those of the machine.
	Listen func(ctx context.Context, network, address string) (net.Listener, error)

	// ListenPacket opens the UDP socket for other nodes. Nil: that of the machine.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)

	// Getenv is where a service manager leaves NOTIFY_SOCKET, WATCHDOG_USEC and LISTEN_FDS. Nil: there is no service
	// manager, as befits an agent inside another program. `agent run` passes os.Getenv.
	Getenv func(string) string

	// Now dates what people see; nothing is decided by it. Nil: time.Now.
	Now func() time.Time

	// Version is what /version and status show. Empty: "devel".
	Version string

	// beforeOpen is called before the store is opened; tests hold it closed here.
	beforeOpen func(context.Context)
}

// withDefaults fills in the zero fields of the first of opts.
func withDefaults(opts []Options) Options {
	var o Options
	if len(opts) > 0 {
		o = opts[0]
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
		o.Metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	if o.ListenPacket == nil {
		o.ListenPacket = new(net.ListenConfig).ListenPacket
	}
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.beforeOpen == nil {
		o.beforeOpen = func(context.Context) {}
	}
	if o.Version == "" {
		o.Version = "devel"
	}
	return o
}
