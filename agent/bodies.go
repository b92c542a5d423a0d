package agent

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/internal/sniff"
)

// bodyFree is how long a body may be announced to be and not be counted: the request itself takes as much.
const bodyFree = 1 << 10

// bodyMax is how much of one request is counted at most. No handler keeps more: batches are read line by line.
const bodyMax = 2 << 20

// bodies is h with the bodies of requests counted while they are under way. A client that has more than its share gets an
// error from reading on.
func (l *ledger) bodies(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.ContentLength >= 0 && r.ContentLength <= bodyFree {
			h.ServeHTTP(w, r)
			return
		}
		caller, ok := api.CallerFrom(r.Context())
		if !ok {
			h.ServeHTTP(w, r)
			return
		}
		b := &countedBody{ReadCloser: r.Body, ledger: l, caller: caller}
		defer b.giveBack()
		defer b.chargeVain()
		r.Body = b
		h.ServeHTTP(w, r)
	})
}

// countedBody is the body of a request, read by its handler alone.
type countedBody struct {
	io.ReadCloser
	ledger *ledger
	caller api.Caller
	held   int64
	whole  bool // it was read to its end
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if more := min(int64(n), bodyMax-b.held); more > 0 {
		if err := b.ledger.takeMany(b.caller, useBody, more); err != nil {
			return 0, err
		}
		b.held += more
	}
	if err == io.EOF { //nolint:errorlint // as io.Reader has it
		b.whole = true
	}
	return n, err
}

// What a client did in vain counts as connections that it has opened (limits.connection-rate): it costs the node as much, and a
// client that is told no and comes again at once could have it done without end.
const (
	// excessCost is for a connection of HTTP/2 that was ended because of too much: so many are worth seconds.
	excessCost = 1 << 10
	// vainBytes of a body that nobody took count as one.
	vainBytes = 32 << 10
)

// chargeVain is for a body that was refused, as too long in most cases, after some of it was taken in.
func (b *countedBody) chargeVain() {
	if n := b.held / vainBytes; n > 0 && !b.whole {
		b.ledger.charge(b.caller, float64(n))
	}
}

func (b *countedBody) giveBack() { b.ledger.giveMany(b.caller, useBody, b.held) }

// bounds is what connections of HTTP/2 may make this node hold and do.
func (a *Agent) bounds() *sniff.Bounds {
	ended := map[sniff.Excess]*atomic.Int64{}
	for _, why := range sniff.Excesses {
		n := &atomic.Int64{}
		ended[why] = n
		a.opts.Metrics.MustRegister(counter("holdfast_agent_http2_ended_total", "Connections of HTTP/2 that were ended because their client had too much under way, or sent too much that is no request.",
			prometheus.Labels{"why": string(why)}, n))
	}
	return &sniff.Bounds{
		Timeout: a.cfg.Limits.BodyTimeout,
		Reset:   func(c net.Conn) bool { return a.ledger.reset(api.CallerOf(c)) },
		Ended: func(c net.Conn, why sniff.Excess) {
			ended[why].Add(1)
			a.ledger.charge(api.CallerOf(c), excessCost)
		},
		Hold: func(c net.Conn, n int64) error {
			who := api.CallerOf(c)
			if n < 0 {
				a.ledger.giveMany(who, useBody, -n)
				return nil
			}
			return a.ledger.takeMany(who, useBody, n)
		},
	}
}
