package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/api/uplink"
	"holdfast/auth"
	"holdfast/config"
	"holdfast/internal/budget"
	"holdfast/internal/pivot"
	"holdfast/internal/service"
	"holdfast/internal/tracing"
	"holdfast/member/raftnet"
)

// Agent is a running node.
type Agent struct {
	cfg      config.Config
	opts     Options
	started  time.Time
	dir      *dataDir
	plan     atomic.Pointer[plan]
	open     []*door
	doors    *doors
	gate     *gate
	pivot    *pivot.Pivot // behind the gate and the queue: what the node is at present
	errands  *errands
	orders   orders      // of changes of mode, to other nodes and from them
	opening  *opening    // of the goroutine that has the node
	farewell atomic.Bool // this node has left its cluster: its data goes aside when everything has ended
	notifier *notifier
	https    *https          // nil: no listener speaks it
	tracer   *tracing.Tracer // nil: nothing is traced
	net      *network
	node     atomic.Pointer[node]           // nil until the node's store is open
	queue    atomic.Pointer[queueView]      // nil until there is one
	judge    atomic.Pointer[auth.Guard]     // in front of the node; nil until its store is open
	mirror   atomic.Pointer[auth.Mirror]    // of the cluster's policy; nil unless this node is, or is about to be, a proxy
	tokens   atomic.Pointer[tokenOffice]    // nil unless this node is a member, and open
	uplinks  atomic.Pointer[uplink.Server]  // nil unless this node is a member
	mail     atomic.Pointer[raftnet.Net]    // of a member, to the others
	budget   atomic.Pointer[budget.Account] // of the links; nil without one
	roll     atomic.Pointer[roll]           // nil unless this node is a member, and open
	clients  *limiter
	ledger   *ledger
	audit    *audit
	swept    *prometheus.CounterVec // tokens that this node removed

	passwords *auth.Passwords
	reload    reloader

	ready    chan struct{}
	done     chan struct{}
	err      error // readable once done is closed
	stop     context.CancelFunc
	cutShort context.CancelFunc
}

// memberStopMax bounds the end of a member: it writes what it keeps in memory to the state file. Being cut off there
// loses nothing, since the log has it all, and makes the next start replay more.
const memberStopMax = 30 * time.Second

// Start runs an agent until ctx ends or Stop is called. At most one Options is used.
//
// When Start returns, the data dir is locked and its mode decided, and the listeners are open; replay goes on behind
// them. An error has an exit code, see ExitCode, and nothing is left open. A cfg that was not loaded should have passed
// config.Config.Complete and Validate.
func Start(ctx context.Context, cfg config.Config, opts ...Options) (*Agent, error) {
	o := withDefaults(opts)
	a := &Agent{
		cfg:     cfg,
		opts:    o,
		started: o.Now(),
		gate:    newGate(),
		pivot:   pivot.New(),
		errands: newErrands(),
		ready:   make(chan struct{}),
		done:    make(chan struct{}),
	}
	a.passwords = auth.NewPasswords(a.judgedTime, 0)
	a.reload.cfg, a.reload.level = cfg, o.LogLevel
	if err := a.prepare(ctx); err != nil {
		return nil, errors.Join(err, a.release())
	}
	run, stop := context.WithCancel(ctx)
	force, cutShort := context.WithCancel(context.WithoutCancel(ctx))
	a.stop, a.cutShort = stop, cutShort
	a.doors = a.buildDoors(force)
	go a.run(run)
	return a, nil
}

// prepare does what can fail at once: the lock, admission, the listeners, then the first steps in the dir.
func (a *Agent) prepare(ctx context.Context) (err error) {
	if a.notifier, err = newNotifier(a.opts.Getenv); err != nil {
		return err
	}
	inherited, err := inherit(a.opts.Getenv)
	if err != nil {
		return err
	}
	if a.dir, err = openDataDir(a.cfg.DataDir); err != nil {
		return errors.Join(err, closeAll(inherited))
	}
	if err = a.unlock(); err != nil {
		return errors.Join(err, closeAll(inherited))
	}
	if err = withoutRaft(&a.cfg, a.dir); err != nil {
		return errors.Join(err, closeAll(inherited))
	}
	if err = a.decide(); err != nil {
		return errors.Join(err, closeAll(inherited))
	}
	if do := a.planned().do; do == serveUnjoined || do == askCluster && !a.planned().again { // a token that is not one is found before anything is made
		if _, err := a.token(); err != nil {
			return errors.Join(err, closeAll(inherited))
		}
	}
	if err := a.openHTTPS(); err != nil {
		return errors.Join(err, closeAll(inherited))
	}
	if a.audit, err = newAudit(a.cfg.Audit.File, int64(a.cfg.Audit.MaxBytes), a.opts.Log, a.opts.Metrics); err != nil {
		return errors.Join(err, closeAll(inherited))
	}
	a.gate.audit = a.audit
	keys := &locksmith{log: a.opts.Log, listen: a.opts.Listen, inherited: inherited}
	if a.open, err = keys.open(ctx, a.cfg); err != nil {
		return err
	}
	if a.net, err = a.openNetwork(ctx); err != nil {
		return err
	}
	if err := a.planned().make(); err != nil {
		return err
	}
	if a.tracer, err = a.openTracer(ctx); err != nil {
		return err
	}
	if err := a.net.start(a); err != nil {
		return err
	}
	if a.planned().record.Mode == config.ModeMember { // asked before the store is open, the gate makes wait
		a.serveUplinks()
	}
	return nil
}

// decide makes the plan, which a node that asks the cluster first makes anew with the answer.
func (a *Agent) decide() error {
	p, err := admit(a.dir, a.cfg, a.opts.Now())
	if err != nil {
		return err
	}
	a.plan.Store(p)
	return nil
}

// planned is what was decided.
func (a *Agent) planned() *plan { return a.plan.Load() }

// release gives back what prepare took.
func (a *Agent) release() error {
	err := closeDoors(a.open)
	if a.net != nil {
		err = errors.Join(err, a.net.close())
	}
	if a.dir != nil {
		err = errors.Join(err, a.dir.Close())
	}
	return err
}

// run starts the parts in order and waits for their end.
func (a *Agent) run(ctx context.Context) {
	log := a.opts.Log
	log.Info("agent starting", "version", a.opts.Version, "mode", cmp.Or(string(a.planned().record.Mode), "not decided yet"), "node_id", a.planned().node.String(),
		"name", a.cfg.Name, "data_dir", a.dir.path, "recorded", a.planned().record.Reason)
	for _, d := range a.open {
		log.Info("listening", "for", d.purpose.String(), "url", d.String())
		if d.isExposed() {
			log.Warn("PLAINTEXT BEYOND THIS MACHINE, as --insecure allows: whoever is on the network reads and changes what clients send; use an https:// listener", "url", d.String(), "for", d.purpose.String())
		}
	}
	group := service.New(log,
		service.Part{Name: "audit", Run: a.audit.Run},
		service.Part{Name: "network", Run: a.runNetwork},
		service.Part{Name: "node", Run: a.runNode, StopTimeout: memberStopMax},
		service.Part{Name: "doors", Run: a.doors.Run, StopTimeout: drainMax + time.Second},
		service.Part{Name: "uplinks", Run: a.runUplinks, StopTimeout: leaveMax + time.Second},
		service.Part{Name: "herald", Run: a.runHerald},
		service.Part{Name: "https", Run: a.runHTTPS},
	)
	err := group.Run(ctx)
	a.stop()
	a.cutShort()
	a.doors.giveUp()
	if err == nil && a.farewell.Load() {
		err = a.goAside()
	}
	a.closeTracer()
	a.err = errors.Join(err, a.release())
	if a.err == nil {
		log.Info("agent stopped")
	} else {
		a.tell(status("Failed: " + a.err.Error()))
	}
	close(a.done)
}

// Ready is closed once the node serves: its log is replayed, and a leader is known or was waited for long enough. It
// stays open if the agent ends before.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Done is closed once the agent has ended and everything is released.
func (a *Agent) Done() <-chan struct{} { return a.done }

// Err is nil until Done and after a clean stop; else the first failure, which names its part.
func (a *Agent) Err() error {
	select {
	case <-a.done:
		return a.err
	default:
		return nil
	}
}

// Stop drains the agent and waits for its end: new requests are refused, running ones finish, the store is flushed, the
// data dir unlocked. Each step is bounded. When ctx ends first, running requests are cut off at once and Stop returns
// its error without waiting for the store, which then still ends; nothing acknowledged is lost. Stop may be called
// several times.
func (a *Agent) Stop(ctx context.Context) error {
	a.stop()
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
	}
	a.cutShort()
	select {
	case <-a.done:
		return a.err
	default:
		return fmt.Errorf("stop the agent: %w", context.Cause(ctx))
	}
}

// Addrs are the URLs that clients are served on, with the ports that were found for port 0.
func (a *Agent) Addrs() []string {
	var urls []string
	for _, d := range a.open {
		if d.purpose == forClients {
			urls = append(urls, d.String())
		}
	}
	return urls
}

// MetricsAddr is the URL of the listener for metrics, empty if they are served to clients.
func (a *Agent) MetricsAddr() string {
	for _, d := range a.open {
		if d.purpose == forMetrics {
			return d.String()
		}
	}
	return ""
}

// SocketPath is the socket for administration.
func (a *Agent) SocketPath() string { return a.cfg.Socket }

// Backend is the node itself, for programs that embed an agent. It waits and refuses as for a client.
func (a *Agent) Backend() api.Backend { return a.gate }
