// Package rest is the door for devices: /v1 over HTTP, on any node, from an api.Backend.
//
// Each file holds one part of the contract: key.go what is a key, put.go, get.go, delete.go and list.go the calls,
// watch.go and stream.go the streams, poll.go the long-poll, precond.go, consistency.go and prefer.go the headers and
// parameters that shape them; txn.go, batch.go and lease.go (with the files named after them) what is beside single
// keys; queue.go and tokens.go what a node has beside its keys, problem.go how a refusal looks, cors.go which web pages
// may call, openapi.yaml all of it for machines. A request is decoded into a small value first, checked whole, and only
// then handed to the Backend; of a batch that holds for each line.
//
// Two refusals are net/http's and not ours: a request line that is not HTTP, a broken escape in a path included, is
// answered 400 by it in plain text, and an Expect other than 100-continue 417.
package rest

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/kv"
)

// Options is what a Handler needs. The zero value of a field is the default its comment names.
type Options struct {
	Backend  api.Backend  // required
	Reporter api.Reporter // required: answers /v1/status

	Queue   func() api.Queue // answers /v1/queue; nil, or returning nil: the node has no queue
	Tokens  api.Tokens       // answers /v1/tokens behind Admin and nowhere else; nil: nowhere
	Devices api.Devices      // answers /v1/devices and /v1/nodes/{id}/scope; nil: nowhere
	Switch  api.Switcher     // answers /v1/nodes/{node}/promote, demote and leave, likewise

	Admin func() api.Admin // answers /v1/snapshot and /v1/members; nil, or returning nil: the node is no full replica

	Nodes        api.Nodes        // answers /v1/nodes behind Admin and nowhere else
	Certificates api.Certificates // answers /v1/cert likewise

	Log     *slog.Logger          // nil: discarded
	Metrics prometheus.Registerer // nil: not counted. New panics if another Handler has registered there

	ValueMax    int           // longest value in bytes; 0: 1 MiB
	KeyMax      int           // longest key in bytes, unescaped; 0: 4 KiB
	RequestMax  int           // longest body that is not a value, in bytes; 0: 1.5 MiB
	OpsMax      int           // most operations in a transaction; 0: 128
	BatchLines  int           // most lines of a batch; 0: 10,000
	BatchBytes  int64         // most bytes of a batch; 0: 64 MiB
	WatchesMax  int           // most watches open at once; 0: 1024. Beyond it a watch is refused with 503 busy
	BodyTimeout time.Duration // a body must have arrived within; 0: 60 s
	Heartbeat   time.Duration // longest silence on a watch; 0: 25 s
	WatchStall  time.Duration // longest a watch waits for its client to read; 0: 10 s. A client that takes longer is closed as a slow consumer, one that takes twice as long is cut off

	// Auto is what consistency=auto, the default, asks for at present: an answer at most maxAge old (0: a linearizable one
	// first, as a member gives it; a proxy has its proxy.max-age), else one at most staleIfError old. Nil: 0 and StaleIfError.
	Auto func() (maxAge, staleIfError time.Duration)

	Origins []string // web origins that may call, such as "https://panel.example"; "*" is any. Nil: only the node's own
	Names   []string // of this machine, beside its addresses and names without a dot, by which those on it may ask
}

// Defaults of Options.
const (
	valueMax    = 1 << 20
	keyMax      = 4 << 10
	requestMax  = 3 << 19
	opsMax      = 128
	watchesMax  = 1024
	bodyTimeout = 60 * time.Second
	watchStall  = 10 * time.Second
	// 25 s keeps a typical carrier NAT open: 3,456 comments a day, about 0.2 MB with their TCP and IP headers.
	heartbeat = 25 * time.Second
)

// StaleIfError is how old an answer consistency=auto takes on a member that cannot get a newer one.
const StaleIfError = 168 * time.Hour

// Handler serves /v1. It is safe for concurrent use.
type Handler struct {
	opts    Options
	origins origins
	metrics *metrics
	epoch   atomic.Pointer[epochValue] // the header value of the epoch seen last

	copies   copies
	watches  atomic.Int64 // open now
	batches  atomic.Int64 // likewise
	stopping context.Context
	stop     context.CancelFunc
}

// New returns a Handler. Register its EndWatches with http.Server.RegisterOnShutdown: open watches hold up Shutdown.
func New(o Options) *Handler {
	if o.Backend == nil || o.Reporter == nil {
		panic("rest: Options without Backend or Reporter")
	}
	setDefault(&o.ValueMax, valueMax)
	setDefault(&o.KeyMax, keyMax)
	setDefault(&o.RequestMax, requestMax)
	setDefault(&o.OpsMax, opsMax)
	setDefault(&o.BatchLines, batchLinesMax)
	setDefault(&o.BatchBytes, batchBytesMax)
	setDefault(&o.WatchesMax, watchesMax)
	setDefault(&o.BodyTimeout, bodyTimeout)
	setDefault(&o.Heartbeat, heartbeat)
	setDefault(&o.WatchStall, watchStall)
	if o.Auto == nil {
		o.Auto = func() (time.Duration, time.Duration) { return 0, StaleIfError }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Backend = api.Signed(o.Backend)
	h := &Handler{opts: o, origins: newOrigins(o.Origins, o.Names)}
	h.metrics = newMetrics(o.Metrics, &h.watches, &h.batches)
	h.stopping, h.stop = context.WithCancel(context.Background())
	return h
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// EndWatches ends every open watch with a last event that says so, and refuses new ones. It does not wait for them. A
// backup that is being read is cut off.
func (h *Handler) EndWatches() {
	h.stop()
	h.copies.close()
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.handle(w, r, false) }

// handle serves a request on a listener that is for administration, or is not.
func (h *Handler) handle(w http.ResponseWriter, r *http.Request, admin bool) {
	if shown := r.Header.Get("Authorization"); shown != "" {
		r = r.WithContext(api.WithToken(r.Context(), shown))
	}
	h.metrics.inFlight.Add(1)
	defer h.metrics.inFlight.Add(-1)
	if r.ContentLength != 0 {
		h.boundBody(w)
	}
	status, err := h.serve(w, r, admin)
	if err != nil {
		status = h.refuse(w, r, err)
	}
	h.metrics.count(r.Method, status)
}

// Methods of the resources, as Allow lists them.
const (
	allowKey    = "GET, HEAD, PUT, DELETE, OPTIONS"
	allowStatus = "GET, HEAD, OPTIONS"
	allowQueued = "GET, HEAD, DELETE, OPTIONS"
	allowTokens = "GET, HEAD, POST, OPTIONS" //nolint:gosec // methods
	allowToken  = "DELETE, OPTIONS"

	allowMembers = "GET, HEAD, PUT, OPTIONS"
	allowMember  = "DELETE, OPTIONS"

	allowPost      = "POST, OPTIONS"
	allowLeases    = "GET, HEAD, POST, OPTIONS"
	allowLease     = "GET, HEAD, PUT, DELETE, OPTIONS"
	allowKeepAlive = allowPost
	allowSnapshot  = "GET, OPTIONS"
)

// serve answers a request and returns the status it has sent, or an error if it has sent nothing yet.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, admin bool) (int, error) {
	to, name := route(r.URL)
	preflight, err := h.origins.admit(w, r)
	if preflight || err != nil {
		return http.StatusNoContent, err
	}
	if admin, err = h.judge(r, to, admin); err != nil {
		return 0, err
	}
	switch to {
	case toKey:
		return h.serveKey(w, r, name)
	case toStatus:
		return h.serveStatus(w, r)
	case toQueue:
		return h.serveQueue(w, r, admin)
	case toQueued:
		return h.serveQueued(w, r, admin, name)
	case toPause, toResume, toFlush:
		return h.servePost(w, r, func(w http.ResponseWriter, r *http.Request) (int, error) { return h.steerQueue(w, r, to) })
	case toRetry:
		return h.servePost(w, r, func(w http.ResponseWriter, r *http.Request) (int, error) { return h.retryQueued(w, r, name) })
	case toTokens:
		return h.serveTokens(w, r, admin)
	case toToken:
		return h.serveToken(w, r, admin, name)
	case toDevices:
		return h.serveDevices(w, r, admin)
	case toDevice:
		return h.serveDevice(w, r, admin, name)
	case toScope:
		return h.serveScope(w, r, admin, name)
	case toMembers:
		return h.serveMembers(w, r, admin)
	case toMember:
		return h.serveMember(w, r, admin, name)
	case toSwitch:
		return h.serveSwitch(w, r, admin, name)
	case toNodes:
		return h.serveNodes(w, r, admin)
	case toNode:
		return h.serveNode(w, r, admin, name)
	case toCert:
		return h.serveCert(w, r, admin)
	case toRenew:
		return h.changeCert(w, r, admin, h.renewCert)
	case toRotate:
		return h.changeCert(w, r, admin, h.rotateCA)
	case toFinish:
		return h.changeCert(w, r, admin, h.finishCA)
	case toTxn:
		return h.servePost(w, r, h.txn)
	case toBatch:
		return h.servePost(w, r, h.serveBatch)
	case toLeases:
		return h.serveLeases(w, r)
	case toLease:
		return h.serveLease(w, r, name)
	case toKeepAlive:
		return h.keepAlive(w, r, name)
	case toSnapshot:
		return h.serveSnapshot(w, r)
	case toDocument:
		return h.serveDocument(w, r)
	default:
		return 0, errNoRoute(r)
	}
}

// servePost is for what is only ever posted to.
func (h *Handler) servePost(w http.ResponseWriter, r *http.Request, post func(http.ResponseWriter, *http.Request) (int, error)) (int, error) {
	switch r.Method {
	case http.MethodPost:
		return post(w, r)
	case http.MethodOptions:
		return replyOptions(w, allowPost)
	default:
		return 0, errMethod(r, allowPost)
	}
}

func (h *Handler) serveKey(w http.ResponseWriter, r *http.Request, key string) (int, error) {
	if len(key) > h.opts.KeyMax {
		return 0, kv.Errorf(kv.TooLarge, "the key is %d bytes long, the limit is %d (limits.key)", len(key), h.opts.KeyMax)
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return h.read(w, r, key)
	case http.MethodPut:
		return h.put(w, r, key)
	case http.MethodDelete:
		return h.delete(w, r, key)
	case http.MethodOptions:
		return replyOptions(w, allowKey)
	default:
		return 0, errMethod(r, allowKey)
	}
}

// read tells the three kinds of GET apart.
func (h *Handler) read(w http.ResponseWriter, r *http.Request, key string) (int, error) {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return 0, err
	}
	watch, err := p.flag("watch")
	if err != nil {
		return 0, err
	}
	prefix, err := p.flag("prefix")
	if err != nil {
		return 0, err
	}
	if key == "" && !prefix {
		return 0, errEmptyKey()
	}
	switch {
	case watch:
		return h.watch(w, r, key, prefix, &p)
	case prefix:
		return h.list(w, r, key, &p)
	default:
		return h.get(w, r, key, &p)
	}
}

func replyOptions(w http.ResponseWriter, allow string) (int, error) {
	w.Header().Set("Allow", allow)
	w.WriteHeader(http.StatusNoContent)
	return http.StatusNoContent, nil
}
